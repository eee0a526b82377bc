"""Mathematics of the algorithm: rewards, advantages, losses, packing. Pure functions."""
