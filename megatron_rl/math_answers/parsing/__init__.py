"""Tokens to a formula tree."""
