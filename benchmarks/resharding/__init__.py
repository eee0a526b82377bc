"""Simulation of resharding: bytes, messages and time of weights on their way to the servers."""
