"""What the ranks of test_skipped_layouts.py do: a broken batch between two good ones."""

import os
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tiny_policy import MOE_CONFIG, learner_at, make_batches, weights_of, with_sequences

from megatron_rl.conversion.families import model_spec


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


def overflow_in_experts_alone(argument: Any) -> dict[str, list[float]]:
    """Return the loss scale of every part of the optimiser after a step, an overflow, a step.

    Args:
        argument: {"port"}.
    """
    scales: dict[str, list[float]] = {}
    layout = {
        "port": argument["port"],
        "ep": 2,
        "precision": "fp16",
        "spec": model_spec(MOE_CONFIG),
    }
    with learner_at(**layout) as learner:
        parts = learner._optimizer.chained_optimizers
        (experts,) = parts[1:]
        copy_gradients = experts._copy_model_grads_to_main_grads

        def overflow() -> None:
            copy_gradients()
            for group in experts.optimizer.param_groups:
                for param in group["params"]:
                    param.grad.fill_(torch.inf)

        for batch, name in zip(make_batches(3), ("step", "overflow", "next step"), strict=True):
            is_broken = name == "overflow"
            experts._copy_model_grads_to_main_grads = overflow if is_broken else copy_gradients
            metrics = learner.update(batch)
            assert metrics["policy/overflow_steps"] == is_broken, name
            scales[name] = [float(part.grad_scaler.scale) for part in parts]
    return scales
