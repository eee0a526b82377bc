"""Report of a run: the summary, the HTML page and the live progress display."""
