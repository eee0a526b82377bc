"""Parallel layouts of a learner: which are legal, what they cost, which to choose."""
