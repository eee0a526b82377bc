"""Equality of two answers, and second opinions on it."""
