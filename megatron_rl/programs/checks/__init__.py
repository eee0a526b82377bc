"""Refusals of a run before a GPU is touched."""
