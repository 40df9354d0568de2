"""Offline evaluation: how good an order is. The server never imports it."""
