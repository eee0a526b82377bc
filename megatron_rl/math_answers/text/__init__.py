"""Characters of an answer to tokens."""
