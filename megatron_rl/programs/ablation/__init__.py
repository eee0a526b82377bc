"""Ablation: variants of one run from one start, each with several seeds, and their comparison."""
