"""Readers of tokens, one module for each kind of answer."""
