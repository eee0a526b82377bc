"""Megatron's GPT model of a family, and what may be overridden in it."""
