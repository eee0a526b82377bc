"""Kinds of answers: sets, residues, intervals, clocks, equations."""
