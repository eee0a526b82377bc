"""Programs of a run on nodes and GPUs: roles, steps, batch script."""
