"""`sgt serve`: serves a compiled program over HTTP, or its generator in front of any chat endpoint."""
