"""Metrics of a batch, from those of its optimiser steps."""

from megatron_rl.learner.metrics import combined


def test_counts_add_up_over_steps_and_the_rest_are_means_or_maxima():
    steps = [
        {"policy/loss": 1.0, "policy/ratio_max": 3.0, "policy/skipped_steps": 1.0},
        {"policy/loss": 2.0, "policy/ratio_max": 2.0, "policy/skipped_steps": 1.0},
    ]
    for step, count in zip(steps, (5.0, 7.0), strict=True):
        step["policy/bounded_tokens"] = count
    assert combined(steps) == {
        "policy/loss": 1.5,
        "policy/ratio_max": 3.0,
        "policy/skipped_steps": 2.0,
        "policy/bounded_tokens": 12.0,
    }
