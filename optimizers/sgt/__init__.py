"""Supplement Generation Training: the teleprompter and each of its steps."""
