"""What a person sees while a run works: events counted, and shown on a terminal, in a notebook, or as lines."""
