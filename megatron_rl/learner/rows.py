"""Row rules of a learner: sequences cut, padded and spread over ranks as its layout wants."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_rl.algorithm.packing import (
    PackedRow,
    Row,
    imbalance,
    pack_row,
    packing_waste,
    padded_lengths,
    plan,
)
from megatron_rl.learner.device.precision import row_multiple
from megatron_rl.learner.minibatch import Minibatch, weight_sum
from megatron_rl.model_spec import ModelSpec
from megatron_rl.parallelism.flops import training_flops
from megatron_rl.parallelism.layouts import Layout
from megatron_rl.sequences import Sequences


@dataclass(frozen=True, kw_only=True, slots=True)
class RowRules:
    """What rows depend on, the same on every rank."""

    model: ModelSpec
    token_budget: int
    sequence_multiple: int
    """Every sequence is padded to a multiple of this many tokens."""
    row_multiple: int
    """And every row to a multiple of this."""
    rows_multiple: int
    """A rank computes rows in rounds of this many."""
    is_in_step: bool
    """Whether all ranks need equally many rows."""


def row_rules(
    spec: ModelSpec,
    layout: Layout,
    *,
    token_budget: int,
    token_multiple: int,
    amax_spans_replicas: bool,
) -> RowRules:
    """Derive the rules of a layout.

    Args:
        token_budget: most tokens of a row.
        token_multiple: what matrix products need the tokens of each rank to be a multiple of.
        amax_spans_replicas: ranks that see different rows agree on scales of FP8 in every row.
    """
    # Context parallelism cuts every sequence into two chunks for each of its ranks.
    sequence_multiple = 2 * layout.cp if layout.cp > 1 else 1
    # Experts are spread over neighbouring ranks, those of a replica first.
    experts_span_replicas = layout.tp * layout.cp % (layout.ep * layout.etp) != 0
    return RowRules(
        model=spec,
        token_budget=token_budget,
        sequence_multiple=sequence_multiple,
        row_multiple=row_multiple(layout, tokens=token_multiple),
        # An interleaved pipeline takes microbatches in rounds of its size.
        rows_multiple=layout.pp if layout.vpp > 1 else 1,
        is_in_step=(spec.moe is not None and experts_span_replicas) or amax_spans_replicas,
    )


def plan_rows(sequences: Sequences, rules: RowRules, *, dp_size: int) -> list[list[Row]]:
    """Return the rows of every rank, for all sequences."""
    return _plan(_lengths_in_rows(sequences, rules), rules, dp_size=dp_size)


def pack_rows(sequences: Sequences, rows: Sequence[Row], rules: RowRules) -> list[PackedRow]:
    """Lay the sequences of each row end to end."""
    return [
        pack_row(
            sequences,
            row,
            sequence_multiple=rules.sequence_multiple,
            multiple=rules.row_multiple,
        )
        for row in rows
    ]


def arrange(
    sequences: Sequences, chosen: Any, rules: RowRules, *, dp_size: int, dp_rank: int
) -> Minibatch:
    """Return one rank's part of an optimiser step on the ``chosen`` sequences."""
    lengths = _lengths_in_rows(sequences, rules)[chosen]
    ranks = _plan(lengths, rules, dp_size=dp_size)
    mine = [tuple(int(chosen[i]) for i in row) for row in ranks[dp_rank]]
    return Minibatch(
        rows=pack_rows(sequences, mine, rules),
        weight_sum=weight_sum(sequences, chosen),
        waste=packing_waste(lengths, ranks, budget=rules.token_budget),
        imbalance=imbalance(training_flops(lengths, rules.model), ranks),
        num_rows=sum(len(rows) for rows in ranks),
    )


def _plan(lengths: NDArray[np.int64], rules: RowRules, *, dp_size: int) -> list[list[Row]]:
    return plan(
        lengths,
        training_flops(lengths, rules.model),
        dp_size=dp_size,
        token_budget=rules.token_budget,
        rows_multiple=rules.rows_multiple,
        is_in_step=rules.is_in_step,
    )


def _lengths_in_rows(sequences: Sequences, rules: RowRules) -> NDArray[np.int64]:
    """Return the tokens each sequence takes in a row, the padding of the layout included."""
    lengths = np.diff(sequences.offsets)
    return padded_lengths(lengths, sequence_multiple=rules.sequence_multiple)
