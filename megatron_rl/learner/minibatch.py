"""What one optimiser step trains on, and what its metrics become."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from megatron_rl.algorithm.losses import PolicyObjective
from megatron_rl.algorithm.packing import PackedRow
from megatron_rl.learner.forward import RowRunner
from megatron_rl.sequences import Sequences


@dataclass(frozen=True, kw_only=True, slots=True)
class Minibatch:
    """This rank's rows of one optimiser step."""

    rows: Sequence[PackedRow]
    weight_sum: float
    """What the token weights of all ranks' rows add up to."""
    waste: float
    """Share of all ranks' rows that holds no token."""
    num_rows: int
    """Rows of all ranks."""
    imbalance: float
    """FLOPs of the data-parallel rank that has most, over the mean of all."""


def weight_sum(sequences: Sequences, chosen: Any) -> float:
    """Return what the token weights of the ``chosen`` sequences add up to."""
    counts = np.concatenate([[0], np.cumsum(sequences.loss_mask_T)])
    num_tokens_N = np.diff(counts[sequences.offsets])
    return float((sequences.weights_N[chosen].astype(np.float64) * num_tokens_N[chosen]).sum())


def scored_at_start(
    minibatches: Sequence[Minibatch],
    objective: PolicyObjective,
    *,
    policy: RowRunner,
    reference: RowRunner | None,
    temperature: float,
) -> list[Minibatch]:
    """Add the log-probs that the objective compares with; call it before the batch's first step.

    In a batch of one step the old policy is the one that is trained, and is not run twice.
    """
    needs_old = objective.correction is not None and len(minibatches) > 1
    results = list(minibatches)
    if needs_old:
        results = [_scored(m, "old_logprobs_T", policy, temperature) for m in results]
    if reference is not None:
        results = [_scored(m, "reference_logprobs_T", reference, temperature) for m in results]
    return results


def combined(records: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return a batch's metrics from those of its steps.

    Means, except for sums of ``*_steps`` and maxima of ``*_max``.
    """
    results = {}
    for name in records[0]:
        values = [record[name] for record in records]
        if name.endswith("_max"):
            results[name] = max(values)
        elif name.endswith("_steps"):
            results[name] = sum(values)
        else:
            results[name] = sum(values) / len(values)
    return results


@torch.no_grad()
def _scored(
    minibatch: Minibatch,
    field: Literal["old_logprobs_T", "reference_logprobs_T"],
    runner: RowRunner,
    temperature: float,
) -> Minibatch:
    logprobs = runner.logprobs(minibatch.rows, temperature=temperature)
    rows = [
        dataclasses.replace(row, **{field: logprobs_T.float().cpu().numpy()})
        for row, logprobs_T in zip(minibatch.rows, logprobs, strict=True)
    ]
    return dataclasses.replace(minibatch, rows=rows)
