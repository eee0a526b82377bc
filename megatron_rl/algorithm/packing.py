"""Sequence packing: sequences to packed rows to data-parallel ranks. Pure and deterministic.

Every rank evaluates the same plan and reads only its own rows, so a batch file says nothing of
the learner's layout.

Shape letters: N = sequences, T = tokens of one row.
"""

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_rl.sequences import SamplingSupport, Sequences

Row = tuple[int, ...]
"""Indices of the sequences of one row; empty for a row that only keeps ranks in step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedRow:
    """Sequences laid end to end for one microbatch, already shifted: token t predicts target t."""

    token_ids_T: NDArray[np.int64]
    targets_T: NDArray[np.int64]
    cu_seqlens: NDArray[np.int32]
    behavior_logprobs_T: NDArray[np.float32]
    advantages_T: NDArray[np.float32]
    weights_T: NDArray[np.float32]
    """>= 0, zero on prompt and padding; sums to 1 over the global minibatch, unless the aggregation
    is "constant"."""
    old_logprobs_T: NDArray[np.float32] | None = None
    """Under the learner at the start of the batch, where a correction asks for it."""
    reference_logprobs_T: NDArray[np.float32] | None = None
    """Under the reference model, where a KL penalty asks for it."""
    support: SamplingSupport | None = None
    """What each target was chosen from, where the sampler was truncated."""


def plan(
    lengths: Sequence[int] | NDArray[np.integer],
    costs: Sequence[float] | NDArray[np.floating],
    *,
    dp_size: int,
    token_budget: int,
    rows_multiple: int = 1,
    is_in_step: bool = False,
) -> list[list[Row]]:
    """Assign every sequence to a rank and, among those of its rank, to a row.

    Most costly first, each sequence goes to the rank with the least work so far. Then greedy
    collation (arXiv:2506.10910, section 3): by descending length, each goes to the rank's first row
    where it fits, else to a new row.

    Args:
        lengths: tokens of each sequence; one longer than the budget gets a row of its own.
        costs: work of each sequence, such as parallelism.flops.training_flops; equal for equal
            lengths.
        dp_size: data-parallel ranks.
        token_budget: most tokens of a row.
        rows_multiple: every rank gets a multiple of this many rows; an interleaved pipeline
            takes microbatches in rounds of its size.
        is_in_step: every rank gets equally many rows, as ranks that share experts need.

    Returns:
        One list of rows per rank, most costly row first. Ranks may have different numbers of rows;
        one that is short of rows is filled up with empty ones, and none has no row at all.
    """
    ranks = [
        sorted(
            _collate(lengths, chosen, token_budget),
            key=lambda row: -sum(float(costs[i]) for i in row),
        )
        for chosen in _balance(costs, dp_size)
    ]
    most = max(len(rows) for rows in ranks)
    wanted = [max(1, most if is_in_step else len(rows)) for rows in ranks]
    return [
        rows + [()] * (-(-count // rows_multiple) * rows_multiple - len(rows))
        for rows, count in zip(ranks, wanted, strict=True)
    ]


def imbalance(
    costs: Sequence[float] | NDArray[np.floating], ranks: Sequence[Sequence[Row]]
) -> float:
    """Return the work of the rank that has most over the mean of all; 1 is a perfect balance."""
    work = [sum(float(costs[i]) for row in rows for i in row) for rows in ranks]
    return max(work) / (sum(work) / len(work))


def packing_waste(
    lengths: Sequence[int] | NDArray[np.integer], ranks: Sequence[Sequence[Row]], *, budget: int
) -> float:
    """Return the share of the rows' token budget that holds no token."""
    num_rows = sum(len(rows) for rows in ranks)
    used = sum(int(lengths[i]) for rows in ranks for row in rows for i in row)
    return max(0.0, 1 - used / (num_rows * budget))


def padded_lengths(
    lengths: Sequence[int] | NDArray[np.integer], *, sequence_multiple: int
) -> NDArray[np.int64]:
    """Return the tokens each sequence takes in a row once it is padded to a multiple."""
    inputs = np.asarray(lengths, dtype=np.int64) - 1
    return -(-inputs // sequence_multiple) * sequence_multiple


def pack_row(
    sequences: Sequences, row: Row, *, sequence_multiple: int = 1, multiple: int = 1
) -> PackedRow:
    """Lay the sequences of ``row`` end to end, shifted by one and padded.

    The last token of a sequence has nothing to predict and is left out of the input, so a
    sequence of n tokens takes n - 1. Padding has zero weight and comes last, where causal
    attention keeps it out of sight.

    Args:
        sequence_multiple: every sequence is padded to a multiple of this many tokens, which
            context parallelism needs to cut each into equal chunks.
        multiple: the row is padded to a multiple of this by a sequence of nothing but padding.
    """
    pieces = [_padded_indices(sequences, i, sequence_multiple) for i in row]
    used = sum(len(indices) for indices, _ in pieces)
    padding = -used % multiple if used else max(multiple, sequence_multiple)
    if padding:
        pieces.append((np.zeros(padding, dtype=np.int64), np.zeros(padding, dtype=np.bool_)))
    inputs = np.concatenate([indices for indices, _ in pieces])
    is_real = np.concatenate([real for _, real in pieces])
    targets = np.where(is_real, inputs + 1, 0)
    sizes = [len(indices) for indices, _ in pieces]
    owners = np.repeat([*row, *([0] if padding else [])], sizes).astype(np.int64)
    on_loss = is_real & sequences.loss_mask_T[targets]
    support = sequences.support
    return PackedRow(
        token_ids_T=np.where(is_real, sequences.token_ids_T[inputs], 0),
        targets_T=np.where(is_real, sequences.token_ids_T[targets], 0),
        cu_seqlens=np.cumsum([0, *sizes]).astype(np.int32),
        behavior_logprobs_T=np.where(
            is_real, sequences.behavior_logprobs_T[targets], np.float32(0)
        ),
        advantages_T=np.where(is_real, sequences.advantages_N[owners], np.float32(0)),
        weights_T=np.where(on_loss, sequences.weights_N[owners], np.float32(0)),
        support=None if support is None else support.take(np.where(on_loss, targets, -1)),
    )


def zigzag_indices(
    cu_seqlens: NDArray[np.integer], *, cp_size: int, cp_rank: int
) -> NDArray[np.int64]:
    """Return which tokens of a row one context-parallel rank holds, in the order it holds them.

    Every sequence is cut into 2 * cp_size chunks; rank r holds chunks r and 2 * cp_size - 1 - r,
    so that causal attention costs every rank the same.

    Args:
        cu_seqlens: [S + 1] where each sequence starts; lengths are multiples of 2 * cp_size.
    """
    parts = []
    for start, end in itertools.pairwise(int(edge) for edge in cu_seqlens):
        chunk = (end - start) // (2 * cp_size)
        for position in (cp_rank, 2 * cp_size - 1 - cp_rank):
            parts.append(np.arange(chunk) + start + position * chunk)
    return np.concatenate(parts)


def _padded_indices(
    sequences: Sequences, index: int, multiple: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the token indices of a sequence's input, and which of them are not padding."""
    start, end = int(sequences.offsets[index]), int(sequences.offsets[index + 1])
    length = end - start - 1
    steps = np.arange(-(-length // multiple) * multiple)
    return np.where(steps < length, start + steps, 0), steps < length


def _balance(costs: Sequence[float] | NDArray[np.floating], dp_size: int) -> list[list[int]]:
    """Divide the sequences among ranks: the most costly first, always to the least busy rank."""
    ranks: list[list[int]] = [[] for _ in range(dp_size)]
    # (work, number) of each rank; a heap, because a batch may have thousands of sequences.
    busy = [(0.0, rank) for rank in range(dp_size)]
    for index in sorted(range(len(costs)), key=lambda i: (-float(costs[i]), i)):
        work, rank = heapq.heappop(busy)
        ranks[rank].append(index)
        heapq.heappush(busy, (work + float(costs[index]), rank))
    return ranks


def _collate(
    lengths: Sequence[int] | NDArray[np.integer], chosen: Sequence[int], token_budget: int
) -> list[Row]:
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(chosen, key=lambda i: (-int(lengths[i]), i)):
        length = int(lengths[index])
        place = next((r for r, free in enumerate(room) if free >= length), None)
        if place is None:
            rows.append([index])
            room.append(token_budget - length)
        else:
            rows[place].append(index)
            room[place] -= length
    return [tuple(row) for row in rows]
