"""What the ranks of test_invariance.py do: the same batches through one layout after another.

One job is one layout. Ranks without a part in a job take another: while two of four train one
layout, the other two train the next.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from objective_ranks import OBJECTIVE, from_nearby
from tiny_policy import (
    CONFIGS,
    SETTINGS,
    learner_at,
    make_batches,
    truncated,
    weights_of,
)

from megatron_rl.conversion.families import model_spec
from megatron_rl.learner.learner import Learner
from megatron_rl.learner.objective import supervised_loss
from megatron_rl.learner.weight_stream import named_weights
from megatron_rl.sequences import Sequences

NUM_BATCHES = 2
"""For the policy's loss; one of demonstrations follows."""
TOKEN_BUDGET = 68
"""With which replicas have different numbers of rows."""


def train(argument: Any) -> None:
    """Do every job; leave its metrics, gradients and weights in the folder, by its name.

    Args:
        argument: {"jobs": {name: {"kind": key of _KINDS, "num_ranks", "port", "settings"}},
            "folder": path}.
    """
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    jobs, folder = argument["jobs"], Path(argument["folder"])
    for num_ranks in sorted({job["num_ranks"] for job in jobs.values()}):
        names = [name for name, job in jobs.items() if job["num_ranks"] == num_ranks]
        for name in names[rank // num_ranks :: world_size // num_ranks]:
            os.environ.update(RANK=str(rank % num_ranks), WORLD_SIZE=str(num_ranks))
            outcome = _KINDS[jobs[name]["kind"]](jobs[name]["port"], jobs[name]["settings"])
            if rank % num_ranks == 0:
                torch.save(outcome, folder / f"{name}.pt")
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size))


def _train_both_losses(port: int, settings: Mapping[str, Any], **model: Any) -> dict[str, Any]:
    settings = {"token_budget": TOKEN_BUDGET} | dict(settings)
    num_minibatches = settings.pop("num_minibatches", 1)
    *batches, demonstrations = make_batches(NUM_BATCHES + 1, num_minibatches=num_minibatches)
    if settings.pop("truncated", False):
        batches = [truncated(batch) for batch in batches]
    with learner_at(port=port, **model, **settings) as learner:
        supervised = _supervised_gradients(learner, demonstrations.sequences)
        gradients = _observe_gradients(learner)
        metrics = [learner.update(batch) for batch in batches]
        metrics.append(learner.update_supervised(demonstrations.sequences))
        return {
            "metrics": metrics,
            "gradients": {"policy": gradients[0], "supervised": supervised},
            "weights": weights_of(learner),
            "held": _held_by_ranks(learner),
        }


def _train_mixture(port: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    return _train_both_losses(port, settings, spec=model_spec(CONFIGS["mixture"]))


def _train_latents(port: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    return _train_both_losses(port, settings, spec=model_spec(CONFIGS["latents"]))


def _train_sinks(port: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    return _train_both_losses(port, settings, spec=model_spec(CONFIGS["sinks"]))


def _train_two_rotations(port: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Train, and return of norms what they scale by: their weights start from zero."""
    outcome = _train_both_losses(port, settings, spec=model_spec(CONFIGS["two rotations"]))
    weights = {
        name: 1 + weight if name.endswith("norm.weight") else weight
        for name, weight in outcome["weights"].items()
    }
    return outcome | {"weights": weights}


def _train_sequence_ratios(port: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Two batches of two steps, with everything an objective may have."""
    with learner_at(port=port, objective=OBJECTIVE, **settings) as learner:
        gradients = _observe_gradients(learner)
        batches = make_batches(NUM_BATCHES, num_minibatches=2)
        metrics = [learner.update(from_nearby(learner, batch)) for batch in batches]
        return {
            "metrics": metrics,
            "gradients": {"policy": gradients[0]},
            "weights": weights_of(learner),
        }


_KINDS = {
    "dense": _train_both_losses,
    "mixture": _train_mixture,
    "latents": _train_latents,
    "sinks": _train_sinks,
    "sequence ratios": _train_sequence_ratios,
    "two rotations": _train_two_rotations,
}


def _supervised_gradients(learner: Learner, sequences: Sequences) -> dict[str, torch.Tensor]:
    """Return the gradients at the first weights: steps enlarge differences of rounding."""
    rows = learner._arrange(sequences, np.arange(len(sequences.offsets) - 1)).rows
    for chunk in learner._chunks:
        chunk.zero_grad_buffer()
    temperature = SETTINGS["temperature"]
    learner._runner.train(
        rows, supervised_loss, temperature=temperature, entropy_has_gradient=False
    )
    return _gradients_of(learner)


def _held_by_ranks(learner: Learner) -> list[tuple[int, int]]:
    """Return how many parameters, and how many first moments, each rank holds."""
    num_parameters = sum(p.numel() for chunk in learner._chunks for p in chunk.parameters())
    optimizer = learner._optimizer
    parts = getattr(optimizer, "chained_optimizers", [optimizer])
    states = [state for part in parts for state in part.optimizer.state.values()]
    held = (num_parameters, sum(state["exp_avg"].numel() for state in states))
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, held)
    return everyone


def _observe_gradients(learner: Learner) -> list[dict[str, torch.Tensor]]:
    """Return a list that every step adds its whole gradients to, by Hugging Face name."""
    kept: list[dict[str, torch.Tensor]] = []
    train = learner._runner.train

    def observed(*rows: Any, **options: Any) -> dict[str, float]:
        metrics = train(*rows, **options)
        kept.append(_gradients_of(learner))
        return metrics

    learner._runner.train = observed
    return kept


def _gradients_of(learner: Learner) -> dict[str, torch.Tensor]:
    """Gather what the ranks hold of the reduced gradient; a collective."""
    for chunk in learner._chunks:
        for buffer in chunk.buffers + chunk.expert_parallel_buffers:
            for bucket in buffer.buckets:
                shards = bucket.grad_data.chunk(buffer.data_parallel_world_size)
                mine = shards[dist.get_rank(buffer.data_parallel_group)].clone()
                dist.all_gather(list(shards), mine, group=buffer.data_parallel_group)
    params = [param for chunk in learner._chunks for param in chunk.parameters()]
    weights = [param.data for param in params]
    for param in params:
        param.data = param.main_grad
    chunks = [chunk.module for chunk in learner._chunks]
    gradients = {
        name: gradient.clone()
        for name, gradient in named_weights(
            chunks, learner._spec, learner._parallel, batch_bytes=2**20
        )
    }
    for param, weight in zip(params, weights, strict=True):
        param.data = weight
    return gradients
