"""Learner: the only room that imports megatron, and the one place that knows the device."""
