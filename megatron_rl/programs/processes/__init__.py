"""Child processes, signals, logs and the run folder of a supervising program."""
