"""Objectives as a run's [algorithm] makes them, applied to plain tensors or to whole batches."""

import dataclasses
import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from megatron_rl.algorithm.advantages import token_weights
from megatron_rl.algorithm.losses import PolicyObjective, policy_objective, sum_over_sequence
from megatron_rl.config import AlgorithmConfig, loss_settings
from megatron_rl.programs.builders.objective import objective_of


def objective(**algorithm: Any) -> PolicyObjective:
    return objective_of(AlgorithmConfig(**algorithm))


def apply(
    wanted: PolicyObjective,
    logprobs_T: Tensor,
    behavior_logprobs_T: Tensor,
    advantages_T: Tensor,
    weights_T: Tensor,
    *,
    lengths: list[int] | None = None,
    **more: Any,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Apply to one row of sequences with these ``lengths``, one sequence when not given."""
    lengths_S = torch.tensor([len(logprobs_T)] if lengths is None else lengths)
    inputs = {
        "old_logprobs_T": None,
        "reference_logprobs_T": None,
        "entropy_T": torch.zeros_like(weights_T),
        "weight_sum": 1.0,
    }
    return policy_objective(
        wanted,
        logprobs_T=logprobs_T,
        behavior_logprobs_T=behavior_logprobs_T,
        advantages_T=advantages_T,
        weights_T=weights_T,
        sum_over_sequence=functools.partial(sum_over_sequence, lengths_S=lengths_S, add_up=None),
        **(inputs | more),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Completions:
    """The completion tokens of N sequences, end to end, in float64."""

    lengths: list[int]
    groups: list[int]
    advantages_N: Tensor
    logprobs_T: Tensor
    old_logprobs_T: Tensor
    behavior_logprobs_T: Tensor
    reference_logprobs_T: Tensor
    entropy_T: Tensor
    max_tokens: int


def loss_of_rows(
    completions: Completions, rows: list[list[int]], *, prompt: int, **algorithm: Any
) -> tuple[float, Tensor, dict[str, float]]:
    """Lay sequences out as ``rows`` say, each after a ``prompt`` of garbage, and add up.

    Returns:
        The loss, its [T] gradient at the completion tokens, and the metrics.
    """
    config = AlgorithmConfig(**algorithm)
    lengths = np.array(completions.lengths)
    aggregation = loss_settings(config).aggregation
    weights_N = token_weights(
        lengths,
        np.array(completions.groups),
        np.zeros(len(lengths), dtype=bool),
        aggregation=aggregation,
        max_tokens=completions.max_tokens,
    ).astype(np.float64)
    starts = np.cumsum([0, *lengths])
    logprobs_T = completions.logprobs_T.clone().requires_grad_()
    total, metrics = torch.zeros((), dtype=torch.float64), {}
    for row in rows:

        def lay(values_T: Tensor, garbage: float, row: list[int] = row) -> Tensor:
            filler = torch.full((prompt,), garbage, dtype=torch.float64)
            pieces = [
                torch.cat([filler, values_T[starts[i] : starts[i] + lengths[i]]]) for i in row
            ]
            return torch.cat([*pieces, filler])

        def spread(values_N: Any, row: list[int] = row) -> Tensor:
            values = torch.as_tensor(values_N, dtype=torch.float64)
            return lay(values.repeat_interleave(torch.as_tensor(lengths)), 0.0, row)

        loss, record = apply(
            objective_of(config),
            lay(logprobs_T, 900.0),
            lay(completions.behavior_logprobs_T, -900.0),
            spread(completions.advantages_N),
            spread(weights_N),
            lengths=[*(int(lengths[i]) + prompt for i in row), prompt],
            old_logprobs_T=lay(completions.old_logprobs_T, -np.inf),
            reference_logprobs_T=lay(completions.reference_logprobs_T, np.nan),
            entropy_T=lay(completions.entropy_T, np.inf),
            weight_sum=float((weights_N * lengths).sum()),
        )
        total = total + loss
        for name, value in record.items():
            known = metrics.get(name, 0.0)
            joined = max(known, value.item()) if name.endswith("_max") else known + value.item()
            metrics[name] = joined
    total.backward()
    return total.item(), logprobs_T.grad, metrics
