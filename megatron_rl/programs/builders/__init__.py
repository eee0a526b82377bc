"""Parts of a program, each built from the configuration."""
