"""Hang forensics: where the processes of a run are, and who waits for whom."""
