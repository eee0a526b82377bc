"""Verifier processes: killable workers that grade responses (no language model judges)."""
