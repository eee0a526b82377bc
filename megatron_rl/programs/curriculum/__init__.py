"""Curriculum of a run: the sources of its problems, and which are given to groups."""
