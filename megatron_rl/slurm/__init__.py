"""Slurm from inside a job: its nodes, its steps, its time limit."""
