"""People rate answers, blind."""
