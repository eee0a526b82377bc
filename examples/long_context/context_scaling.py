"""Arithmetic of one context length: sequences made up for it, and how evenly ranks share them.

Shape letters: N = sequences, T = tokens of one sequence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megatron_rl.algorithm.packing import (
    imbalance,
    packing_waste,
    padded_lengths,
    plan,
    zigzag_indices,
)
from megatron_rl.model_spec import ModelSpec
from megatron_rl.parallelism.flops import training_flops

_MEDIAN_SHARE, _SPREAD, _SHORTEST = 1 / 8, 1.0, 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Balance:
    """How a batch lies in rows, and how evenly its FLOPs are shared."""

    padding: float
    """Share of the tokens in rows that only make sequences divisible."""
    room: float
    """Share of the rows' token budget that stays empty."""
    over_dp: float
    """FLOPs of the data-parallel rank that has most, over the mean of all."""
    over_cp: float
    """FLOPs of the context-parallel rank that has most, over the mean of all."""


def made_up_lengths(longest: int, *, tokens: int, seed: int) -> list[int]:
    """Return lengths with a long tail, the longest among them, that add up to at least ``tokens``.

    Their median is an eighth of the longest, as reasoning models have it at the start.
    """
    rng = np.random.default_rng(seed)
    lengths = [longest]
    while sum(lengths) < tokens:
        drawn = rng.lognormal(np.log(longest * _MEDIAN_SHARE), _SPREAD)
        lengths.append(int(np.clip(drawn, min(_SHORTEST, longest), longest)))
    return lengths


def balance_of(
    lengths_N: Sequence[int], model: ModelSpec, *, token_budget: int, dp_size: int, cp_size: int
) -> Balance:
    """Return what the learner's own plan of rows makes of a batch.

    Args:
        lengths_N: [N] tokens that each sequence predicts from.
        model: that is trained.
        token_budget: most tokens of a row.
        dp_size: data-parallel ranks.
        cp_size: context-parallel ranks.
    """
    multiple = 2 * cp_size if cp_size > 1 else 1
    padded_N = padded_lengths(np.asarray(lengths_N) + 1, sequence_multiple=multiple)
    costs_N = training_flops(padded_N, model)
    ranks = plan(padded_N, costs_N, dp_size=dp_size, token_budget=token_budget)
    return Balance(
        padding=1 - sum(lengths_N) / int(padded_N.sum()),
        room=packing_waste(padded_N, ranks, budget=token_budget),
        over_dp=imbalance(costs_N, ranks),
        over_cp=context_imbalance(padded_N.tolist(), model, cp_size=cp_size),
    )


def context_imbalance(lengths_N: Sequence[int], model: ModelSpec, *, cp_size: int) -> float:
    """Return the FLOPs of the context-parallel rank that has most, over the mean of all.

    Args:
        lengths_N: [N] tokens of each sequence, which 2 * cp_size divides where there are several.
    """
    if cp_size == 1:
        return 1.0
    # What a position adds to the FLOPs of a sequence that ends there.
    positions_T = np.arange(max(lengths_N) + 1)
    marginal_T = np.diff(training_flops(positions_T, model))
    work = [
        sum(float(marginal_T[_held(length, cp_size, rank)].sum()) for length in lengths_N)
        for rank in range(cp_size)
    ]
    return max(work) / (sum(work) / cp_size)


def _held(length: int, cp_size: int, cp_rank: int) -> Any:
    return zigzag_indices(np.array([0, length]), cp_size=cp_size, cp_rank=cp_rank)


def rope_scaling_for(length: int, *, positions: int, kind: str) -> Mapping[str, Any] | None:
    """Return the [model.rope_scaling] of a context length, None where the model reaches so far."""
    if length <= positions:
        return None
    return {
        "type": kind,
        "factor": length / positions,
        "original_max_position_embeddings": positions,
    }
