"""Offline training of the bundled models and fine-tuning of others; the server never imports this package."""
