"""What the ranks of test_skipped_layouts.py do: a broken batch between two good ones."""

import os
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tiny_policy import learner_at, make_batches, weights_of, with_sequences


def train_around_a_broken_batch(argument: Any) -> dict[str, Any]:
    """Return per layout what every rank counted, and whether the broken batch left a trace.

    Args:
        argument: {"layouts": names to settings, "ports": one each}.
    """
    outcome = {}
    for (name, layout), port in zip(argument["layouts"].items(), argument["ports"], strict=True):
        with learner_at(port=port, **layout) as learner:
            good, bad, last = make_batches(3)
            advantages_N = bad.sequences.advantages_N.copy()
            # One sequence, so that of data-parallel ranks only one computes NaN.
            advantages_N[0] = np.nan
            learner.update(good)
            before = weights_of(learner)
            counted = learner.update(with_sequences(bad, advantages_N=advantages_N))
            after = weights_of(learner)
            final = learner.update(last)
            everyone: list[Any] = [None] * int(os.environ["WORLD_SIZE"])
            dist.all_gather_object(everyone, counted["policy/skipped_steps"])
            outcome[name] = {
                "skipped": everyone,
                "skipped last": final["policy/skipped_steps"],
                "is unchanged": all(torch.equal(after[key], before[key]) for key in before),
                "moved on": any(
                    not torch.equal(weight, after[key])
                    for key, weight in weights_of(learner).items()
                ),
            }
    return outcome
