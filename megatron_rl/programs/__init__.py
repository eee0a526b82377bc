"""Programs of a run: each a `main(config, options)` that returns an exit code."""
