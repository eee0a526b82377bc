"""Checkpoints of a learner: contents, files, identity, and those of weights alone."""
