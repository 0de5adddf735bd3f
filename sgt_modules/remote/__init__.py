"""Generators behind a server."""
