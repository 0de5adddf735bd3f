"""Runs the frozen actor on an example and a supplement, and scores what it answers."""
