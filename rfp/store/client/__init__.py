"""The store's client."""
