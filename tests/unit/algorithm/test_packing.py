"""Packing: nothing lost, nothing twice, nothing over budget; one row by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from megatron_rl.algorithm.packing import imbalance, pack_row, packing_waste, plan
from megatron_rl.sequences import SamplingSupport, Sequences

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=60)
DP_SIZES = st.integers(1, 5)
BUDGETS = st.integers(1, 100)

# Two sequences end to end: 10 11 12 13 with a prompt of 1, and 20 21 22 with a prompt of 2.
SEQUENCES = Sequences(
    token_ids_T=np.array([10, 11, 12, 13, 20, 21, 22]),
    offsets=np.array([0, 4, 7]),
    loss_mask_T=np.array([False, True, True, True, False, False, True]),
    behavior_logprobs_T=np.array([0, -1, -2, -3, 0, 0, -6], dtype=np.float32),
    advantages_N=np.array([2, -1], dtype=np.float32),
    weights_N=np.array([0.25, 0.5], dtype=np.float32),
)


def costs_of(lengths):
    """Return work with a quadratic term, as attention has."""
    return [float(length * (20 + length)) for length in lengths]


@given(LENGTHS, DP_SIZES, BUDGETS)
@example([60], 5, 1)
def test_every_sequence_is_in_exactly_one_row(lengths, dp_size, budget):
    ranks = plan(lengths, costs_of(lengths), dp_size=dp_size, token_budget=budget)
    placed = sorted(i for rows in ranks for row in rows for i in row)
    assert placed == list(range(len(lengths)))


@given(LENGTHS, DP_SIZES, BUDGETS)
def test_no_row_is_over_budget_unless_it_is_one_long_sequence(lengths, dp_size, budget):
    for rows in plan(lengths, costs_of(lengths), dp_size=dp_size, token_budget=budget):
        for row in rows:
            assert len(row) == 1 or sum(lengths[i] for i in row) <= budget


@given(LENGTHS, DP_SIZES, BUDGETS)
def test_only_a_rank_without_sequences_has_an_empty_row(lengths, dp_size, budget):
    ranks = plan(lengths, costs_of(lengths), dp_size=dp_size, token_budget=budget)
    assert len(ranks) == dp_size
    assert all(rows == [()] or () not in rows for rows in ranks)
    assert all(rows for rows in ranks)
    assert sum(rows == [()] for rows in ranks) == max(0, dp_size - len(lengths))


@given(LENGTHS, DP_SIZES, BUDGETS, st.integers(1, 4))
def test_ranks_in_step_have_equally_many_rows_and_no_round_of_empty_ones(
    lengths, dp_size, budget, multiple
):
    ranks = plan(
        lengths,
        costs_of(lengths),
        dp_size=dp_size,
        token_budget=budget,
        rows_multiple=multiple,
        is_in_step=True,
    )
    (num_rows,) = {len(rows) for rows in ranks}
    assert num_rows % multiple == 0
    assert min(rows.count(()) for rows in ranks) < multiple


@given(LENGTHS, DP_SIZES, BUDGETS, st.integers(1, 4))
def test_every_rank_has_whole_rounds_of_rows(lengths, dp_size, budget, multiple):
    ranks = plan(
        lengths,
        costs_of(lengths),
        dp_size=dp_size,
        token_budget=budget,
        rows_multiple=multiple,
    )
    assert all(len(rows) % multiple == 0 and rows.count(()) <= multiple for rows in ranks)


@given(LENGTHS, DP_SIZES, BUDGETS)
def test_no_rank_has_more_than_the_mean_and_one_sequence_of_work(lengths, dp_size, budget):
    costs = costs_of(lengths)
    ranks = plan(lengths, costs, dp_size=dp_size, token_budget=budget)
    work = [sum(costs[i] for row in rows for i in row) for rows in ranks]
    assert max(work) <= sum(costs) / dp_size + max(costs)
    assert imbalance(costs, ranks) == pytest.approx(max(work) / (sum(costs) / dp_size))


@given(LENGTHS, DP_SIZES, BUDGETS)
def test_the_plan_depends_on_the_lengths_alone(lengths, dp_size, budget):
    first = plan(lengths, costs_of(lengths), dp_size=dp_size, token_budget=budget)
    assert (
        plan(np.array(lengths), np.array(costs_of(lengths)), dp_size=dp_size, token_budget=budget)
        == first
    )


@given(LENGTHS, DP_SIZES, BUDGETS, st.randoms(use_true_random=False))
def test_rows_hold_the_same_lengths_in_whatever_order_sequences_come(
    lengths, dp_size, budget, random
):
    def shape(values):
        ranks = plan(values, costs_of(values), dp_size=dp_size, token_budget=budget)
        return sorted(sorted(values[i] for i in row) for rows in ranks for row in rows)

    shuffled = random.sample(lengths, len(lengths))
    assert shape(shuffled) == shape(lengths)


@given(LENGTHS, BUDGETS)
def test_no_two_rows_would_fit_into_one(lengths, budget):
    (rows,) = plan(lengths, costs_of(lengths), dp_size=1, token_budget=budget)
    totals = sorted(sum(lengths[i] for i in row) for row in rows)
    assert len(totals) < 2 or totals[0] + totals[1] > budget


def test_greedy_collation_by_hand():
    # Descending: 6 opens a row (room 4), 5 opens another (room 5), 4 fits the first (room 0),
    # 3 the second (room 2), 2 the second (room 0), 1 opens a third.
    ranks = plan([1, 2, 3, 4, 5, 6], [1.0] * 6, dp_size=1, token_budget=10)
    assert sorted(ranks[0]) == [(0,), (4, 2, 1), (5, 3)]


def test_work_is_spread_over_the_ranks_and_not_tokens():
    # Squares: 36 to rank 0; 25 and then 9, 4 and 1 to the lesser load: rank 1 (25), rank 1 (34),
    # rank 1 (38), rank 0 (37). By tokens it would be 6 + 2 + 1 against 5 + 3.
    lengths = [6, 5, 3, 2, 1]
    ranks = plan(lengths, [36.0, 25.0, 9.0, 4.0, 1.0], dp_size=2, token_budget=8)
    # Rank 1 needs two rows: 5 + 3 and 2. The most costly row comes first.
    assert ranks == [[(0, 4)], [(1, 2), (3,)]]
    assert imbalance([36.0, 25.0, 9.0, 4.0, 1.0], ranks) == pytest.approx(38 / 37.5)


def test_waste_is_the_share_of_the_budget_without_a_token():
    ranks = plan([6, 5], [6.0, 5.0], dp_size=3, token_budget=10)
    # Three rows (one of them empty) of 10 tokens hold 11 tokens: 1 - 11 / 30.
    assert packing_waste([6, 5], ranks, budget=10) == pytest.approx(19 / 30)


def test_a_sequence_over_the_budget_is_no_negative_waste():
    ranks = plan([25], [1.0], dp_size=1, token_budget=10)
    assert packing_waste([25], ranks, budget=10) == 0


def test_a_row_by_hand():
    row = pack_row(SEQUENCES, (1, 0), multiple=4)
    # The last token of each has nothing to predict: 2 + 3 tokens, and 3 of padding up to 8.
    assert row.token_ids_T.tolist() == [20, 21, 10, 11, 12, 0, 0, 0]
    assert row.targets_T.tolist() == [21, 22, 11, 12, 13, 0, 0, 0]
    assert row.cu_seqlens.tolist() == [0, 2, 5, 8]
    assert row.behavior_logprobs_T.tolist() == [0, -6, -1, -2, -3, 0, 0, 0]
    assert row.advantages_T.tolist() == [-1, -1, 2, 2, 2, 0, 0, 0]
    # 21 is still prompt, so predicting it weighs nothing.
    assert row.weights_T.tolist() == [0, 0.5, 0.25, 0.25, 0.25, 0, 0, 0]


def test_a_row_that_needs_no_padding_has_none():
    row = pack_row(SEQUENCES, (0, 1))
    assert row.cu_seqlens.tolist() == [0, 3, 5]
    assert row.cu_seqlens.dtype == np.int32
    assert row.token_ids_T.dtype == row.targets_T.dtype == np.int64
    assert row.weights_T.dtype == row.advantages_T.dtype == np.float32


@pytest.mark.parametrize("multiple", [1, 4])
def test_an_empty_row_is_padding_alone(multiple):
    row = pack_row(SEQUENCES, (), multiple=multiple)
    assert row.token_ids_T.tolist() == [0] * multiple
    assert row.cu_seqlens.tolist() == [0, multiple]
    assert row.weights_T.tolist() == [0] * multiple


def numbered_sequences(lengths):
    """Sequences whose token ids count up; all but the first token of each is on the loss."""
    num_tokens, offsets = sum(lengths), np.cumsum([0, *lengths])
    mask_T = np.ones(num_tokens, dtype=bool)
    mask_T[offsets[:-1]] = False
    return Sequences(
        token_ids_T=np.arange(num_tokens),
        offsets=offsets,
        loss_mask_T=mask_T,
        behavior_logprobs_T=np.zeros(num_tokens, dtype=np.float32),
        advantages_N=np.ones(len(lengths), dtype=np.float32),
        weights_N=np.ones(len(lengths), dtype=np.float32),
    )


def itself_and_the_next(mask_T):
    """The support in which each token on the loss was chosen from itself and the next number."""
    return SamplingSupport.of_rows(
        [[token, token + 1] if is_sampled else [] for token, is_sampled in enumerate(mask_T)]
    )


@given(LENGTHS, BUDGETS, DP_SIZES, st.sampled_from([1, 2, 8]))
def test_targets_keep_what_they_were_chosen_from(lengths, budget, dp_size, multiple):
    sequences = numbered_sequences(lengths)
    sequences = replace(sequences, support=itself_and_the_next(sequences.loss_mask_T))
    ranks = plan(lengths, costs_of(lengths), dp_size=dp_size, token_budget=budget)
    for row in (row for rows in ranks for row in rows):
        packed = pack_row(sequences, row, sequence_multiple=multiple, multiple=multiple)
        on_loss = packed.weights_T > 0
        assert packed.support.rows() == [
            [target, target + 1] if is_trained else []
            for target, is_trained in zip(packed.targets_T, on_loss, strict=True)
        ]


@given(LENGTHS, BUDGETS, DP_SIZES, st.sampled_from([1, 2, 8]))
def test_weights_and_targets_survive_packing(lengths, budget, dp_size, multiple):
    sequences = numbered_sequences(lengths)
    ranks = plan(lengths, costs_of(lengths), dp_size=dp_size, token_budget=budget)
    packed = [pack_row(sequences, row, multiple=multiple) for rows in ranks for row in rows]
    assert all(len(row.token_ids_T) % multiple == 0 for row in packed)
    assert all(row.cu_seqlens[-1] == len(row.token_ids_T) for row in packed)
    trained = sorted(t for row in packed for t in row.targets_T[row.weights_T > 0])
    assert trained == np.flatnonzero(sequences.loss_mask_T).tolist()
