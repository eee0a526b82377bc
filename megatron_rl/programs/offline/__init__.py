"""Parts of the tools that work without a training run."""
