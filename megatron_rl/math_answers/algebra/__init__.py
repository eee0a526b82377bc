"""Equality of formulas by normal forms, numbers and proofs."""
