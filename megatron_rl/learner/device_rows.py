"""Packed rows on the device: all of a step in a few transfers, before it begins.

Shape letters: T = the tokens of a packed row that this rank holds, S = sequences of the row,
K = tokens that the targets were chosen from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megatron_rl.algorithm.packing import PackedRow, zigzag_indices
from megatron_rl.learner.device.parallel import Parallel
from megatron_rl.learner.device.platform import Platform
from megatron_rl.learner.logprobs import Support
from megatron_rl.sequences import SamplingSupport

_OF_LOSS = (
    "targets_T",
    "behavior_logprobs_T",
    "advantages_T",
    "weights_T",
    "old_logprobs_T",
    "reference_logprobs_T",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceRow:
    """A PackedRow on the learner's device; see algorithm.packing.PackedRow.

    Of tokens those that this rank holds. Pipeline stages other than the first have no
    ``token_ids_T``, and other than the last none of what a loss is made of.
    """

    token_ids_T: Tensor
    cu_seqlens: Tensor
    edges: tuple[int, ...]
    """``cu_seqlens`` on the host."""
    longest: int
    sequence_lengths_S: Tensor
    """Tokens that this rank holds of each sequence of the row."""
    targets_T: Tensor
    behavior_logprobs_T: Tensor
    advantages_T: Tensor
    weights_T: Tensor
    old_logprobs_T: Tensor | None
    reference_logprobs_T: Tensor | None
    support: Support | None


def device_rows(
    rows: Sequence[PackedRow], parallel: Parallel, platform: Platform
) -> list[DeviceRow]:
    """Copy to the device what this rank's pipeline stage needs of all rows."""
    held = [context_indices(row, parallel, parallel.cp_rank) for row in rows]
    nothing = [None] * len(rows)

    def tokens(name: str, *, is_needed: bool) -> Sequence[Tensor | None]:
        # All rows have an optional field, or none has.
        if not is_needed or getattr(rows[0], name) is None:
            return nothing
        arrays = [getattr(row, name) for row in rows]
        return _uploaded([_taken(a, mine) for a, mine in zip(arrays, held, strict=True)], platform)

    lengths = [np.diff(row.cu_seqlens) for row in rows]
    parts: dict[str, Sequence[Any]] = {
        "token_ids_T": tokens("token_ids_T", is_needed=parallel.pp_rank == 0),
        "cu_seqlens": _uploaded([row.cu_seqlens for row in rows], platform),
        "edges": [tuple(row.cu_seqlens.tolist()) for row in rows],
        "longest": [int(lengths_S.max()) for lengths_S in lengths],
        # Context-parallel ranks hold equal parts of every sequence.
        "sequence_lengths_S": _uploaded([n // parallel.layout.cp for n in lengths], platform),
        **{name: tokens(name, is_needed=parallel.is_last_stage) for name in _OF_LOSS},
        "support": nothing,
    }
    supports = [row.support for row in rows if row.support is not None]
    if supports and parallel.is_last_stage:
        parts["support"] = _uploaded_supports(supports, held, platform)
    return [
        DeviceRow(**{name: values[i] for name, values in parts.items()}) for i in range(len(rows))
    ]


def context_indices(row: PackedRow, parallel: Parallel, cp_rank: int) -> NDArray[np.int64] | None:
    """Return which of the row's tokens a context-parallel rank holds, None for all."""
    cp_size = parallel.layout.cp
    if cp_size == 1:
        return None
    return zigzag_indices(row.cu_seqlens, cp_size=cp_size, cp_rank=cp_rank)


def _uploaded_supports(
    supports: Sequence[SamplingSupport],
    held: Sequence[NDArray[np.int64] | None],
    platform: Platform,
) -> list[Support]:
    mine = [
        support if indices is None else support.take(indices)
        for support, indices in zip(supports, held, strict=True)
    ]
    ids = _uploaded([support.ids_K for support in mine], platform)
    counts = _uploaded([np.diff(support.offsets) for support in mine], platform)
    return [
        Support(ids_K=ids_K, counts_T=counts_T, offsets=support.offsets)
        for ids_K, counts_T, support in zip(ids, counts, mine, strict=True)
    ]


def _taken(array_T: NDArray[Any], held: NDArray[np.int64] | None) -> NDArray[Any]:
    return array_T if held is None else array_T[held]


def _uploaded(arrays: Sequence[NDArray[Any]], platform: Platform) -> Sequence[Tensor]:
    """Copy the arrays in one transfer; return the parts of the copy."""
    whole = platform.upload(torch.from_numpy(np.concatenate(arrays)))
    return whole.split([len(array) for array in arrays])
