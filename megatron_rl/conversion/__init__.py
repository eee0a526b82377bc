"""Megatron and Hugging Face layouts: pure functions on whole tensors, every family a table."""
