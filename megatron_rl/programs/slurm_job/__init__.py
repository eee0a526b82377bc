"""Parts of a Slurm job's supervisor, its preflight and its steps."""
