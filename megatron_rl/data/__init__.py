"""Training data: problem files, prompts and the order in which problems are drawn."""
