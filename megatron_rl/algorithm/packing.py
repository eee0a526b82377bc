"""Which sequences form which packed row, on which data-parallel rank. Pure and deterministic.

Every rank evaluates the same plan and reads only its own rows, so a batch file says nothing of
the learner's layout.

Shape letters: N = sequences, T = tokens of one row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
    """>= 0, zero on prompt and padding; sums to 1 over the global minibatch."""


def plan(
    lengths: Sequence[int] | NDArray[np.integer], *, dp_size: int, token_budget: int
) -> list[list[Row]]:
    """Assign every sequence to a row and every row to a rank.

    Greedy collation (arXiv:2506.10910, section 3): by descending length, each sequence goes to the
    first row where it fits, else to a new row. Rows go, longest work first, to the rank with the
    least work, work being the sum of squared lengths plus the budget's share of linear cost.

    Args:
        lengths: tokens of each sequence; one longer than the budget gets a row of its own.
        dp_size: data-parallel ranks.
        token_budget: most tokens of a row.

    Returns:
        One list of rows per rank, all equally long (filled up with empty rows), because ranks
        that share experts or a pipeline must step together.
    """
    rows = _collate(lengths, token_budget)
    cost = [sum(int(lengths[i]) * (token_budget + int(lengths[i])) for i in row) for row in rows]
    rows_per_rank = -(-len(rows) // dp_size)
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


def pack_row(sequences: Sequences, row: Row, *, multiple: int = 1) -> PackedRow:
    """Lay the sequences of ``row`` end to end, shifted by one and padded to ``multiple`` tokens.

    The last token of a sequence has nothing to predict and is left out of the input, so a
    sequence of n tokens takes n - 1. Padding is a sequence of its own with zero weight.
    """
    spans = [(int(sequences.offsets[i]), int(sequences.offsets[i + 1])) for i in row]
    lengths = [end - start - 1 for start, end in spans]
    padding = -sum(lengths) % multiple if sum(lengths) else multiple
    inputs = np.concatenate([np.arange(s, e - 1) for s, e in spans] or [np.arange(0)])
    repeats = np.repeat(np.array(row, dtype=np.int64), lengths)
    mask_T = sequences.loss_mask_T[inputs + 1]
    ends = np.cumsum([0, *lengths, padding] if padding else [0, *lengths])

    def pad(values: NDArray[Any]) -> NDArray[Any]:
        return np.pad(values, (0, padding))

    return PackedRow(
        token_ids_T=pad(sequences.token_ids_T[inputs]),
        targets_T=pad(sequences.token_ids_T[inputs + 1]),
        positions_T=np.concatenate([np.arange(n) for n in np.diff(ends)]),
        cu_seqlens=ends.astype(np.int32),
        behavior_logprobs_T=pad(sequences.behavior_logprobs_T[inputs + 1]),
        advantages_T=pad(sequences.advantages_N[repeats]),
        weights_T=pad(np.where(mask_T, sequences.weights_N[repeats], np.float32(0))),
    )


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
