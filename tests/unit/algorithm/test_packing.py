"""Packing: nothing lost, nothing twice, nothing over budget; one row by hand."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from megatron_rl.algorithm.packing import Sequences, pack_row, packing_waste, plan

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


@given(LENGTHS, DP_SIZES, BUDGETS)
@example([60], 5, 1)
def test_every_sequence_is_in_exactly_one_row(lengths, dp_size, budget):
    ranks = plan(lengths, dp_size=dp_size, token_budget=budget)
    placed = sorted(i for rows in ranks for row in rows for i in row)
    assert placed == list(range(len(lengths)))


@given(LENGTHS, DP_SIZES, BUDGETS)
def test_no_row_is_over_budget_unless_it_is_one_long_sequence(lengths, dp_size, budget):
    for rows in plan(lengths, dp_size=dp_size, token_budget=budget):
        for row in rows:
            assert len(row) == 1 or sum(lengths[i] for i in row) <= budget


@given(LENGTHS, DP_SIZES, BUDGETS)
def test_every_rank_has_the_same_number_of_rows(lengths, dp_size, budget):
    ranks = plan(lengths, dp_size=dp_size, token_budget=budget)
    assert len(ranks) == dp_size
    assert len({len(rows) for rows in ranks}) == 1
    num_empty = sum(row == () for rows in ranks for row in rows)
    assert num_empty < dp_size  # else a whole round of rows would be for nothing


@given(LENGTHS, DP_SIZES, BUDGETS)
def test_the_plan_depends_on_the_lengths_alone(lengths, dp_size, budget):
    first = plan(lengths, dp_size=dp_size, token_budget=budget)
    assert plan(np.array(lengths), dp_size=dp_size, token_budget=budget) == first


@given(LENGTHS, DP_SIZES, BUDGETS, st.randoms(use_true_random=False))
def test_rows_hold_the_same_lengths_in_whatever_order_sequences_come(
    lengths, dp_size, budget, random
):
    def shape(values):
        ranks = plan(values, dp_size=dp_size, token_budget=budget)
        return sorted(sorted(values[i] for i in row) for rows in ranks for row in rows)

    shuffled = random.sample(lengths, len(lengths))
    assert shape(shuffled) == shape(lengths)


@given(LENGTHS, BUDGETS)
def test_no_two_rows_would_fit_into_one(lengths, budget):
    (rows,) = plan(lengths, dp_size=1, token_budget=budget)
    totals = sorted(sum(lengths[i] for i in row) for row in rows)
    assert len(totals) < 2 or totals[0] + totals[1] > budget


def test_greedy_collation_by_hand():
    # Descending: 6 opens a row (room 4), 5 opens another (room 5), 4 fits the first (room 0),
    # 3 the second (room 2), 2 the second (room 0), 1 opens a third.
    ranks = plan([1, 2, 3, 4, 5, 6], dp_size=1, token_budget=10)
    assert sorted(ranks[0]) == [(0,), (4, 2, 1), (5, 3)]


def test_the_longest_work_is_spread_over_the_ranks():
    # One sequence a row. Work l * (10 + l): 10 -> 200, 9 -> 171, 8 -> 144, 7 -> 119.
    # 10 to rank 0, 9 and 8 ... to the lesser load: rank 1 (171), rank 1 (315), then rank 0 (319).
    ranks = plan([10, 9, 8, 7], dp_size=2, token_budget=10)
    assert ranks == [[(0,), (3,)], [(1,), (2,)]]


def test_waste_is_the_share_of_the_budget_without_a_token():
    ranks = plan([6, 5], dp_size=3, token_budget=10)
    # Three rows (one of them empty) of 10 tokens hold 11 tokens: 1 - 11 / 30.
    assert packing_waste([6, 5], ranks, budget=10) == pytest.approx(19 / 30)


def test_a_sequence_over_the_budget_is_no_negative_waste():
    ranks = plan([25], dp_size=1, token_budget=10)
    assert packing_waste([25], ranks, budget=10) == 0


def test_a_row_by_hand():
    row = pack_row(SEQUENCES, (1, 0), multiple=4)
    # The last token of each has nothing to predict: 2 + 3 tokens, and 3 of padding up to 8.
    assert row.token_ids_T.tolist() == [20, 21, 10, 11, 12, 0, 0, 0]
    assert row.targets_T.tolist() == [21, 22, 11, 12, 13, 0, 0, 0]
    assert row.positions_T.tolist() == [0, 1, 0, 1, 2, 0, 1, 2]
    assert row.cu_seqlens.tolist() == [0, 2, 5, 8]
    assert row.behavior_logprobs_T.tolist() == [0, -6, -1, -2, -3, 0, 0, 0]
    assert row.advantages_T.tolist() == [-1, -1, 2, 2, 2, 0, 0, 0]
    # 21 is still prompt, so predicting it weighs nothing.
    assert row.weights_T.tolist() == [0, 0.5, 0.25, 0.25, 0.25, 0, 0, 0]


def test_a_row_that_needs_no_padding_has_none():
    row = pack_row(SEQUENCES, (0, 1))
    assert row.cu_seqlens.tolist() == [0, 3, 5]
    assert row.cu_seqlens.dtype == np.int32
    assert row.token_ids_T.dtype == row.targets_T.dtype == row.positions_T.dtype == np.int64
    assert row.weights_T.dtype == row.advantages_T.dtype == np.float32


@pytest.mark.parametrize("multiple", [1, 4])
def test_an_empty_row_is_padding_alone(multiple):
    row = pack_row(SEQUENCES, (), multiple=multiple)
    assert row.token_ids_T.tolist() == [0] * multiple
    assert row.cu_seqlens.tolist() == [0, multiple]
    assert row.weights_T.tolist() == [0] * multiple


@given(LENGTHS, BUDGETS, DP_SIZES, st.sampled_from([1, 2, 8]))
def test_weights_and_targets_survive_packing(lengths, budget, dp_size, multiple):
    num_tokens, offsets = sum(lengths), np.cumsum([0, *lengths])
    mask_T = np.ones(num_tokens, dtype=bool)
    mask_T[offsets[:-1]] = False
    sequences = Sequences(
        token_ids_T=np.arange(num_tokens),
        offsets=offsets,
        loss_mask_T=mask_T,
        behavior_logprobs_T=np.zeros(num_tokens, dtype=np.float32),
        advantages_N=np.ones(len(lengths), dtype=np.float32),
        weights_N=np.ones(len(lengths), dtype=np.float32),
    )
    ranks = plan(lengths, dp_size=dp_size, token_budget=budget)
    packed = [pack_row(sequences, row, multiple=multiple) for rows in ranks for row in rows]
    assert all(len(row.token_ids_T) % multiple == 0 for row in packed)
    assert all(row.cu_seqlens[-1] == len(row.token_ids_T) for row in packed)
    trained = sorted(t for row in packed for t in row.targets_T[row.weights_T > 0])
    assert trained == np.flatnonzero(mask_T).tolist()
