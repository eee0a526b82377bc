"""Mixture of sources: shares that are exact to within a group, wherever a run stops."""

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_rl.data.curriculum.mixture import Mixture

WEIGHTS = st.lists(
    st.one_of(
        st.integers(1, 40).map(float),
        st.integers(1, 999).map(lambda n: n / 100),
        st.sampled_from([0.1, 1e-3, 7473.0, 1792000.0]),
    ),
    min_size=1,
    max_size=9,
)


@given(weights=WEIGHTS)
@settings(max_examples=60)
def test_at_any_prefix_every_source_is_within_one_group_of_its_share(weights: list[float]):
    mixture, counts = Mixture(weights), Counter[int]()
    total = sum(Fraction(str(weight)) for weight in weights)
    shares = [Fraction(str(weight)) / total for weight in weights]
    for index in range(300):
        place, before = mixture.place(index)
        assert before == counts[place]
        counts[place] += 1
        for source, share in enumerate(shares):
            assert abs(counts[source] - (index + 1) * share) < 1


@given(weights=WEIGHTS, indices=st.lists(st.integers(0, 3000), min_size=1, max_size=5))
@settings(max_examples=30)
def test_a_place_does_not_depend_on_what_was_asked_before(weights, indices):
    asked = Mixture(weights)
    for index in indices:
        assert asked.place(index) == Mixture(weights).place(index)


def test_many_sources_keep_within_one_where_the_one_furthest_behind_would_not():
    # Smooth weighted round-robin is off by a whole group with these weights.
    weights = [1, 1, 6, 6, 6, 8, 10]
    assert worst_deviation(weights, smooth_round_robin(weights)) >= 1
    mixture = Mixture(weights)
    order = [mixture.place(index)[0] for index in range(sum(weights))]
    assert worst_deviation(weights, order) < 1


@pytest.mark.parametrize(
    ("weights", "order"),
    [([1], "0000"), ([1, 1], "0101"), ([3, 1], "00100010"), ([0.5, 0.25, 0.25], "01200120")],
)
def test_small_mixtures_by_hand(weights: list[float], order: str):
    mixture = Mixture(weights)
    assert "".join(str(mixture.place(index)[0]) for index in range(len(order))) == order


def smooth_round_robin(weights: list[int]) -> list[int]:
    behind, order = [0] * len(weights), []
    for _ in range(sum(weights)):
        behind = [b + weight for b, weight in zip(behind, weights, strict=True)]
        order.append(max(range(len(weights)), key=behind.__getitem__))
        behind[order[-1]] -= sum(weights)
    return order


def worst_deviation(weights: list[int], order: list[int]) -> Fraction:
    counts, worst = Counter[int](), Fraction()
    for num, source in enumerate(order, start=1):
        counts[source] += 1
        for other, weight in enumerate(weights):
            worst = max(worst, abs(counts[other] - Fraction(weight * num, sum(weights))))
    return worst
