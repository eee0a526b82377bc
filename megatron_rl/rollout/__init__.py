"""Rollout: completions in flight, their verdicts, and batches made of whole groups."""
