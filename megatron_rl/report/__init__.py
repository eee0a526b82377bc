"""What people look at: the summary, the HTML page and the live progress display."""
