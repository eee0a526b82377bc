"""Devices under a learner: CPU or GPU, process groups, precision, layers."""
