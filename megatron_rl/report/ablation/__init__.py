"""Report of an ablation: its variants' curves, mean and spread over seeds, and their scores."""
