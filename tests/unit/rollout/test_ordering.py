import bisect
import heapq
import itertools
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_rl.rollout.ordering import StartOrder
from megatron_rl.types import Cursor

FOREVER = 10**9
NUM_SLOTS = 256


def order_of(max_lag_groups: int, cursor: Cursor | None = None) -> StartOrder:
    return StartOrder(Cursor() if cursor is None else cursor, max_lag_groups=max_lag_groups)


def started(order: StartOrder, count: int) -> StartOrder:
    for _ in range(count):
        order.start()
    return order


def test_a_running_head_holds_back_what_started_after_it():
    order = started(order_of(FOREVER), 3)
    order.complete(1)
    order.complete(2)
    assert order.take(1) is None
    order.complete(0)
    assert order.take(3) == [0, 1, 2]


def test_a_head_that_lags_is_passed_over_and_joins_the_next_batch_first():
    order = started(order_of(2), 5)
    order.complete(1)
    assert order.take(1) is None  # one later group is complete, two are needed
    order.complete(2)
    assert order.take(2) == [1, 2]
    order.complete(3)
    order.complete(0)
    assert order.take(2) == [0, 3]


def test_once_passed_over_a_head_never_holds_again():
    order = started(order_of(2), 5)
    for index in (1, 2):
        order.complete(index)
    order.take(2)
    order.complete(3)
    assert order.take(1) == [3]


def test_the_next_running_group_takes_over_as_head():
    order = started(order_of(2), 4)
    order.complete(2)
    order.complete(3)
    # Both 0 and 1 have two later groups complete.
    assert order.take(2) == [2, 3]
    order = started(order_of(2), 4)
    order.complete(1)
    order.complete(3)  # 0 lags by two, 2 only by one
    assert order.take(1) == [1]
    assert order.take(1) is None


def test_a_dropped_head_releases_what_it_held():
    order = started(order_of(FOREVER), 2)
    order.complete(1)
    order.drop(0)
    assert order.take(1) == [1]


def test_without_lag_groups_come_as_they_complete():
    order = started(order_of(0), 3)
    order.complete(2)
    assert order.take(1) == [2]


def test_outstanding_groups_start_before_new_ones():
    order = order_of(FOREVER, Cursor(next_index=7, outstanding=(5, 2)))
    assert [order.start() for _ in range(4)] == [2, 5, 7, 8]


def test_the_cursor_names_what_is_neither_taken_nor_dropped():
    order = started(order_of(0, Cursor(next_index=4, outstanding=(1, 2))), 5)  # 1 2 4 5 6
    order.complete(1)
    order.complete(4)
    order.drop(5)
    assert order.take(1) == [1]
    assert order.cursor() == Cursor(next_index=7, outstanding=(2, 4, 6))


Action = tuple[str, int]
actions = st.lists(
    st.tuples(st.sampled_from(["start", "finish", "take", "crash"]), st.integers(0, 99)),
    max_size=120,
)


def is_kept(index: int) -> bool:
    return index % 4 != 1


class Life:
    """A run that only remembers what batches remember: the last cursor and the trained groups."""

    def __init__(self, max_lag_groups: int) -> None:
        self.max_lag_groups = max_lag_groups
        self.batches: list[list[int]] = []
        self.cursor = Cursor()
        self.crash()

    def crash(self) -> None:
        self.order = order_of(self.max_lag_groups, self.cursor)
        self.running: list[int] = []

    def apply(self, action: str, number: int) -> None:
        if action == "start":
            self.running.append(self.order.start())
        elif action == "finish" and self.running:
            index = self.running.pop(number % len(self.running))
            (self.order.complete if is_kept(index) else self.order.drop)(index)
        elif action == "take" and (taken := self.order.take(1 + number % 3)) is not None:
            self.batches.append(taken)
            self.cursor = self.order.cursor()
        elif action == "crash":
            self.crash()

    @property
    def trained(self) -> list[int]:
        return [index for batch in self.batches for index in batch]


@given(actions=actions, max_lag_groups=st.sampled_from([0, 1, 3, FOREVER]))
@settings(max_examples=300, deadline=None)
def test_every_group_is_trained_once_or_dropped_once_whatever_dies_when(actions, max_lag_groups):
    life = Life(max_lag_groups)
    for action in actions:
        life.apply(*action)
        trained = life.trained
        assert len(trained) == len(set(trained))
        # What the last batch knows: trained, outstanding, or dropped for a reason.
        outstanding = set(life.cursor.outstanding)
        assert outstanding.isdisjoint(trained)
        dropped = set(range(life.cursor.next_index)) - outstanding - set(trained)
        assert not any(map(is_kept, dropped))
    life.crash()  # and at the end nothing that should be trained is missing
    target = life.cursor.next_index + 8
    while len(life.running) + life.order.cursor().next_index < target + len(life.running):
        life.apply("start", 0)
    while life.running:
        life.apply("finish", 0)
    for _ in range(target):
        life.apply("take", 0)
    assert sorted(life.trained) == [index for index in range(target) if is_kept(index)]


@given(actions=actions)
@settings(max_examples=200, deadline=None)
def test_training_order_is_start_order_while_no_group_lags_too_far(actions):
    life = Life(FOREVER)
    for action, number in actions:
        if action != "crash":
            life.apply(action, number)
    assert (
        life.trained
        == [i for i in range(life.cursor.next_index) if is_kept(i)][: len(life.trained)]
    )


@given(actions=actions, max_lag_groups=st.integers(0, 4))
@settings(max_examples=200, deadline=None)
def test_only_a_group_that_lags_by_the_limit_is_overtaken(actions, max_lag_groups):
    life = Life(max_lag_groups)
    lags: dict[int, int] = {}
    for action, number in actions:
        running_before, num_batches = list(life.running), len(life.batches)
        if action != "crash":
            life.apply(action, number)
        for finished in set(running_before) - set(life.running):
            for earlier in life.running:
                lags[earlier] = lags.get(earlier, 0) + (earlier < finished and is_kept(finished))
        for taken in [index for batch in life.batches[num_batches:] for index in batch]:
            overtaken = [index for index in life.running if index < taken]
            assert all(lags.get(index, 0) >= max_lag_groups for index in overtaken)


def simulate(
    max_lag_groups: int, *, num_slots: int, batch_size: int, spread: float = 5.0
) -> Iterator[list[int]]:
    """Yield batches of groups where a group takes as long as its completion is.

    ``num_slots`` groups run at any time, and lengths have a heavy tail.
    """
    order, now, running = order_of(max_lag_groups), 0.0, []
    while True:
        while len(running) < num_slots:
            index = order.start()
            heapq.heappush(running, (now + length_of(index, spread), index))
        now, index = heapq.heappop(running)
        order.complete(index)
        batch = order.take(batch_size)
        if batch is not None:
            yield batch


def length_of(index: int, spread: float = 5.0) -> float:
    """Pareto with shape 1.5, capped so that the longest takes ``spread`` times the shortest."""
    return min(random.Random(f"length {index}").paretovariate(1.5), spread)


def long_shares(max_lag_groups: int) -> tuple[float, float]:
    """Return the share of long groups among the first trained, and among the first started."""
    num_batches, batch_size = 12, 32
    batches = simulate(max_lag_groups, num_slots=NUM_SLOTS, batch_size=batch_size)
    trained = [index for batch in itertools.islice(batches, num_batches) for index in batch]
    first_started = range(num_batches * batch_size)
    assert len(trained) == len(first_started)
    shares = [
        sum(length_of(index) > 4 for index in indices) / len(indices)
        for indices in (trained, first_started)
    ]
    return shares[0], shares[1]


def is_unbiased(trained_share: float, started_share: float) -> bool:
    # The share of long groups is 4**-1.5 = 1/8 of 384; two binomial deviations are 0.034.
    return abs(trained_share - started_share) < 0.034


@pytest.mark.parametrize("max_lag_groups", [FOREVER, 3 * NUM_SLOTS])
def test_what_is_trained_is_as_long_as_what_was_started(max_lag_groups: int):
    assert is_unbiased(*long_shares(max_lag_groups))


@pytest.mark.lengthy
def test_lengths_are_distributed_as_started_though_the_longest_are_overtaken():
    """Of groups 64 times as long as others, with the default lag of three times what is running."""
    batch_size, num_slots, spread = 128, 256, 64.0
    batches = list(
        itertools.islice(
            simulate(3 * num_slots, num_slots=num_slots, batch_size=batch_size, spread=spread), 120
        )
    )
    started_before = range(20 * batch_size, 120 * batch_size)
    trained = list(itertools.chain.from_iterable(batches[20:]))
    overtaken = sum(max(earlier) > min(later) for earlier, later in itertools.pairwise(batches))
    assert overtaken > 50
    # A two-sample Kolmogorov-Smirnov statistic of 12,800 lengths each exceeds 0.017 one time in 20
    # when they are independent draws of one distribution; these share nearly all.
    assert (
        ks_statistic(
            [length_of(index, spread) for index in trained],
            [length_of(index, spread) for index in started_before],
        )
        < 0.01
    )


def ks_statistic(left: list[float], right: list[float]) -> float:
    """Return the largest distance of two empirical distribution functions."""
    left, right = sorted(left), sorted(right)
    return max(
        abs(bisect.bisect(left, x) / len(left) - bisect.bisect(right, x) / len(right))
        for x in [*left, *right]
    )


def test_the_order_of_completion_would_fail_that_test():
    trained_share, started_share = long_shares(0)
    assert not is_unbiased(trained_share, started_share)
    assert trained_share < started_share / 2
