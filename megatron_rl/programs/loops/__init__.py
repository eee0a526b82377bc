"""State of a training loop between two steps."""
