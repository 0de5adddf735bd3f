"""What runs in a worker's own process: the standard library only, and no other room of ours."""
