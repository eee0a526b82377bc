"""Stages of gpu-check: what each of them does, on a GPU or, in small, on the CPU."""
