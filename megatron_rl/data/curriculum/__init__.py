"""Curriculum: which problem each group works on, out of one source or a mixture."""
