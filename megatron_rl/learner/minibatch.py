"""Minibatch of one optimiser step: the rows of this rank, and numbers of those of all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megatron_rl.algorithm.packing import PackedRow
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
