"""Tokens of an answer to an answer of some kind."""
