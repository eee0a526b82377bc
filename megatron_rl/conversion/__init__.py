"""Conversion between Megatron and Hugging Face layouts: pure functions, every family a table."""
