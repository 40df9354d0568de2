"""Offline training of the bundled cross-encoder. The server never imports this package."""
