"""Demonstrations: the methods trained, compared and shown on the embedded worlds."""
