"""Supervisory Prompt Training: the teleprompter and each of its steps."""
