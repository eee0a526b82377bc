"""Runs of stages: each in a process of its own, with a time limit, a log and a result."""
