"""The papers' data sets as DSPy tasks, and the sandbox that their metrics run in."""
