"""Equality of answers, and second opinions."""
