"""A compiled program behind HTTP: itself, and its generator in front of any chat endpoint."""
