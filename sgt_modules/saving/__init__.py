"""Save and load programs: references to the generator's weights, checks of a saved state, and redaction of secrets."""
