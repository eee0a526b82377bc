"""Slurm as seen from inside a job: its nodes, its steps, its time."""
