"""What the ranks of test_objective_layouts.py do: everything an objective may have, on batches."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from tiny_policy import learner_at, make_batches, weights_of, write_weights

from megatron_rl.algorithm.losses import Correction, PolicyObjective
from megatron_rl.batch import Batch
from megatron_rl.learner.learner import Learner
from megatron_rl.learner.minibatch import sequences_of

OBJECTIVE = PolicyObjective(
    loss="gspo",
    clip_low=0.01,
    clip_high=0.01,
    correction=Correction(name="tis", level="sequence", low=0.0, high=2.0),
    kl_coefficient=0.1,
    entropy_coefficient=0.05,
)


def train_at_layouts(argument: Any) -> dict[str, list[dict[str, float]]]:
    """Train two batches of two steps at each layout; return metrics, leave weights in ``folder``.

    Args:
        argument: {"layouts": names to settings, "ports": one each, "folder": path}.
    """
    metrics = {}
    for (name, layout), port in zip(argument["layouts"].items(), argument["ports"], strict=True):
        with learner_at(port=port, objective=OBJECTIVE, **layout) as learner:
            batches = make_batches(2, num_minibatches=2)
            metrics[name] = [learner.update(_from_nearby(learner, b)) for b in batches]
            write_weights(Path(argument["folder"]) / f"{name}.pt", weights_of(learner))
    return metrics


def _from_nearby(learner: Learner, batch: Batch) -> Batch:
    """Let a generator near the learner report the log-probs, as ratios of sequences need."""
    rows = learner.logprobs(sequences_of(batch))
    logprobs_T = np.concatenate([[0.0, *row.tolist()] for row in rows])
    noise_T = np.random.default_rng(0).normal(0.0, 0.3, len(logprobs_T))
    behavior_T = np.where(batch.loss_mask_T, logprobs_T + noise_T, 0.0).astype(np.float32)
    return dataclasses.replace(batch, behavior_logprobs_T=behavior_T)
