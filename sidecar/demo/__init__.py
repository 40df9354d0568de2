"""A demonstration on one machine: an embedded engine, a corpus written for this project, and the real sidecar."""
