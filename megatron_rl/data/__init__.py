"""What is trained on: problem files, prompts and the order in which problems are drawn."""
