"""Code that runs in a worker process. It imports the standard library only, so that a worker starts fast."""
