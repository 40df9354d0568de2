"""A gRPC sidecar that reranks the hits of Elasticsearch and OpenSearch inside a latency budget."""

__version__ = "0.1.0"
