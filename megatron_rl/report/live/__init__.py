"""Live page of a run: what its folder holds, as it grows, in a browser."""
