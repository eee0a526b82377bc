"""Which sequences form which packed row, on which data-parallel rank. Pure and deterministic.

Every rank evaluates the same plan and reads only its own rows, so a batch file says nothing of
the learner's layout.

Shape letters: N = sequences, T = tokens of one row.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Row = tuple[int, ...]
"""Indices of the sequences of one row; empty for a row that only keeps ranks in step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sequences:
    """Token sequences end to end with what the loss needs of them; see batch.Batch."""

    token_ids_T: NDArray[np.int64]
    offsets: NDArray[np.int64]
    loss_mask_T: NDArray[np.bool_]
    behavior_logprobs_T: NDArray[np.float32]
    advantages_N: NDArray[np.float32]
    weights_N: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedRow:
    """Sequences laid end to end for one microbatch, already shifted: token t predicts target t."""

    token_ids_T: NDArray[np.int64]
    targets_T: NDArray[np.int64]
    positions_T: NDArray[np.int64]
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


def plan(
    lengths: Sequence[int] | NDArray[np.integer],
    *,
    dp_size: int,
    token_budget: int,
    rows_multiple: int = 1,
) -> list[list[Row]]:
    """Assign every sequence to a row and every row to a rank.

    Greedy collation (arXiv:2506.10910, section 3): by descending length, each sequence goes to the
    first row where it fits, else to a new row. Rows go, longest work first, to the rank with the
    least work, work being the sum of squared lengths plus the budget's share of linear cost.

    Args:
        lengths: tokens of each sequence; one longer than the budget gets a row of its own.
        dp_size: data-parallel ranks.
        token_budget: most tokens of a row.
        rows_multiple: every rank gets a multiple of this many rows; an interleaved pipeline
            takes microbatches in rounds of its size.

    Returns:
        One list of rows per rank, all equally long (filled up with empty rows), because ranks
        that share experts or a pipeline must step together.
    """
    rows = _collate(lengths, token_budget)
    cost = [sum(int(lengths[i]) * (token_budget + int(lengths[i])) for i in row) for row in rows]
    rows_per_rank = -(-len(rows) // (dp_size * rows_multiple)) * rows_multiple
    ranks: list[list[Row]] = [[] for _ in range(dp_size)]
    load = [0] * dp_size
    for index in sorted(range(len(rows)), key=lambda i: -cost[i]):
        open_ranks = [rank for rank in range(dp_size) if len(ranks[rank]) < rows_per_rank]
        rank = min(open_ranks, key=lambda r: load[r])
        ranks[rank].append(rows[index])
        load[rank] += cost[index]
    return [rows + [()] * (rows_per_rank - len(rows)) for rows in ranks]


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
    return PackedRow(
        token_ids_T=np.where(is_real, sequences.token_ids_T[inputs], 0),
        targets_T=np.where(is_real, sequences.token_ids_T[targets], 0),
        positions_T=np.concatenate([np.arange(size) for size in sizes]),
        cu_seqlens=np.cumsum([0, *sizes]).astype(np.int32),
        behavior_logprobs_T=np.where(
            is_real, sequences.behavior_logprobs_T[targets], np.float32(0)
        ),
        advantages_T=np.where(is_real, sequences.advantages_N[owners], np.float32(0)),
        weights_T=np.where(on_loss, sequences.weights_N[owners], np.float32(0)),
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


def _collate(lengths: Sequence[int] | NDArray[np.integer], token_budget: int) -> list[Row]:
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-int(lengths[i]), i)):
        length = int(lengths[index])
        place = next((r for r, free in enumerate(room) if free >= length), None)
        if place is None:
            rows.append([index])
            room.append(token_budget - length)
        else:
            rows[place].append(index)
            room[place] -= length
    return [tuple(row) for row in rows]
