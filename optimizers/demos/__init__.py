"""The embedded worlds: the methods trained, compared and shown on them."""
