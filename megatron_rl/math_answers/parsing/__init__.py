"""Parsing of tokens to a formula tree."""
