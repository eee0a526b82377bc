"""Placement of a run's programs on nodes and GPUs: roles, steps, batch script."""
