"""Text of an answer: characters to tokens."""
