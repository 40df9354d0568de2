"""Real OpenSearch and Elasticsearch: how nodes of them are started, and the tests that need them."""
