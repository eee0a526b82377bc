"""Standing of problems: when each leaves and comes back, worked out by hand."""

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_rl.data.curriculum.passes import PassOrder
from megatron_rl.data.curriculum.standing import STANDINGS, LifecycleRules, SourceStanding

RULES = {
    "retire_above": 0.8,
    "retire_visits": 2,
    "defer_below": 0.1,
    "defer_visits": 2,
    "defer_passes": 2,
    "reserve_above": 0.5,
    "reserve_join": 2,
}


def standing_of(num: int, *, num_reserve: int = 0, **changes: Any) -> SourceStanding:
    order = PassOrder(num, seed=1, shuffle=False)
    return SourceStanding(order, num_reserve=num_reserve, rules=LifecycleRules(**RULES | changes))


def counts(standing: SourceStanding) -> dict[str, int]:
    return {name: n for name in STANDINGS if (n := standing.count(name))}


def visit(standing: SourceStanding, *pass_rates: float) -> list[int]:
    """Visit as many problems as there are rates, and settle each at once."""
    visited = []
    for pass_rate in pass_rates:
        visited.append(standing.next())
        standing.settle(visited[-1], pass_rate)
    return visited


def test_a_problem_that_is_solved_at_visits_in_a_row_leaves_for_good():
    standing = standing_of(3)
    assert visit(standing, 1, 1, 0.5) == [0, 1, 2]
    assert visit(standing, 0.8, 0.7, 1) == [0, 1, 2]  # 0 is solved; 1 and 2 begin anew
    assert counts(standing) == {"active": 2, "solved": 1}
    assert visit(standing, 1, 1, 1) == [1, 2, 1]  # 2 in pass 3, 1 in pass 4
    assert counts(standing) == {"solved": 3}
    assert standing.is_exhausted


def test_a_problem_that_stays_unsolved_comes_back_after_so_many_passes():
    standing = standing_of(3, defer_passes=2)
    visit(standing, 0, 0.5, 0.5)
    assert visit(standing, 0.1, 0.5, 0.5) == [0, 1, 2]  # 0 is deferred in pass 1
    assert counts(standing) == {"active": 2, "deferred": 1}
    assert visit(standing, *[0.5] * 4) == [1, 2, 1, 2]  # passes 2 and 3 without it
    assert visit(standing, 0, 0.5, 0.5) == [0, 1, 2]  # it is back, with a clean slate
    assert counts(standing) == {"active": 3}
    visit(standing, 0)
    assert counts(standing) == {"active": 2, "deferred": 1}


def test_where_all_are_deferred_passes_without_a_problem_take_no_time():
    standing = standing_of(2, defer_visits=1, defer_passes=7)
    assert visit(standing, 0, 0) == [0, 1]
    assert counts(standing) == {"deferred": 2} and not standing.is_exhausted
    assert visit(standing, 0.5, 0.5, 0.5) == [0, 1, 0]
    assert counts(standing) == {"active": 2}


def test_zero_visits_mean_never():
    standing = standing_of(2, retire_visits=0, defer_visits=0)
    visit(standing, *[1, 0] * 20)
    assert counts(standing) == {"active": 2}


def test_the_reserve_joins_once_what_is_active_is_solved_well_enough():
    standing = standing_of(7, num_reserve=3, retire_visits=0)
    assert standing.call_reserve() == 0  # nothing is known yet
    assert visit(standing, 0.5) == [0]
    assert standing.call_reserve() == 0  # reserve_join problems have to be known
    visit(standing, 0.25)
    assert standing.call_reserve() == 0  # a mean of 0.375
    assert visit(standing, 0.9) == [2]
    assert standing.call_reserve() == 2  # a mean of 0.55, and the first two join
    assert counts(standing) == {"active": 6, "reserve": 1}
    # Those that have joined count as unsolved: a mean of 1.65 / 5.
    assert (standing.num_known, standing.pass_rate_sum) == (5, pytest.approx(1.65, abs=1e-5))
    assert standing.call_reserve() == 0
    assert visit(standing, 0.5, 1, 1, 0.5) == [3, 4, 5, 0]
    # 0.5, 0.25, 0.9, 0.5, 1, 1 for problems 0 to 5
    assert standing.call_reserve() == 1
    assert counts(standing) == {"active": 7}
    assert standing.call_reserve() == 0


def test_what_was_solved_and_has_left_still_counts_as_solved():
    """Or what stays, which is hard, would keep the reserve away for ever."""
    standing = standing_of(7, num_reserve=3, retire_visits=1, defer_visits=0, reserve_above=0.75)
    visit(standing, 1, 1, 0)
    assert standing.call_reserve() == 0  # a mean of 2 / 3
    visit(standing, 1)
    assert counts(standing) == {"active": 1, "solved": 3, "reserve": 3}
    assert standing.call_reserve() == 2


def test_the_reserve_is_called_when_nothing_else_is_left():
    standing = standing_of(4, num_reserve=3, retire_visits=1, reserve_join=2)
    visit(standing, 1)
    assert standing.is_exhausted
    assert standing.call_reserve() == 2
    assert visit(standing, 0.5, 0.5, 0.5) == [1, 2, 1]


def test_a_group_that_was_in_flight_when_its_problem_left_changes_its_rate_alone():
    standing = standing_of(2, retire_visits=1)
    first, second = standing.next(), standing.next()
    standing.settle(first, 1.0)
    assert counts(standing) == {"active": 1, "solved": 1}
    standing.settle(first, 0.0)
    assert counts(standing) == {"active": 1, "solved": 1}
    standing.settle(second, 0.5)
    assert (standing.num_known, standing.pass_rate_sum) == (2, 1.0)  # 0.5 each


def test_the_running_rate_leans_to_the_recent():
    standing = standing_of(1, defer_visits=0)
    visit(standing, 0.0, 1.0, 0.5)
    assert standing.pass_rate_sum == 0.5  # (0 + 1) / 2, then (0.5 + 0.5) / 2
    visit(standing, 0.0)
    assert (standing.num_known, standing.pass_rate_sum) == (1, 0.25)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=40)
def test_what_is_counted_along_the_way_is_what_a_count_gives(seed: int):
    chance = random.Random(seed)
    standing = standing_of(
        9, num_reserve=4, retire_visits=2, defer_visits=1, defer_passes=1, reserve_above=0.3
    )
    in_flight: list[int] = []
    for _ in range(60):
        if not standing.is_exhausted:
            in_flight.append(standing.next())
        while in_flight and chance.random() < 0.6:
            position = in_flight.pop(chance.randrange(len(in_flight)))
            standing.settle(position, chance.choice([0, 0.25, 0.5, 1, 1]))
        if chance.random() < 0.3:
            standing.call_reserve()
        along = counts(standing)
        standing._tally()
        assert along == counts(standing)
        is_out_P = standing._standing_P != STANDINGS.index("reserve")
        known = standing._rate_P[is_out_P & (standing._rate_P >= 0)]
        assert standing.pass_rate_sum == pytest.approx(known.sum() / 2**20, abs=1e-12)
        is_known_P = is_out_P & ((standing._rate_P >= 0) | (np.arange(9) >= 5))
        assert standing.num_known == is_known_P.sum()
        assert sum(counts(standing).values()) == 9
