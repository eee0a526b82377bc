"""Normal forms, numbers and proofs: whether two formulas are the same."""
