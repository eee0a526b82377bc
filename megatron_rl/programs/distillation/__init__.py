"""Traces of a teacher's run as supervised pairs: survey of its batches, selection, files."""
