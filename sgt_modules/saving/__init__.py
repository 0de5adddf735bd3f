"""How a saved program refers to its generator, and how a saved state is checked."""
