import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from megatron_rl.algorithm.advantages import group_advantages, token_weights
from megatron_rl.algorithm.filtering import is_zero_advantage

MEANS = ["group", "token", "sequence"]
SCALES = ["minibatch", "group", "none"]
# Two groups: means 0.5 and 0.75, so centred (-0.5, 0.5) and (-0.25, 0.25).
REWARDS = np.array([0.0, 1.0, 0.5, 1.0])
GROUPS = np.array([7, 7, 9, 9])


def test_without_scale_the_advantage_is_the_reward_less_its_groups_mean():
    assert group_advantages(REWARDS, GROUPS, scale="none").tolist() == [-0.5, 0.5, -0.25, 0.25]


def test_minibatch_scale_divides_by_the_deviation_over_all_sequences():
    # Centred values have mean 0 and variance (0.25 + 0.25 + 0.0625 + 0.0625) / 4 = 0.15625.
    expected = np.array([-0.5, 0.5, -0.25, 0.25]) / np.sqrt(0.15625)
    assert_allclose(group_advantages(REWARDS, GROUPS, scale="minibatch"), expected, rtol=1e-6)


def test_group_scale_divides_by_the_deviation_of_the_own_group():
    advantages = group_advantages(REWARDS, GROUPS, scale="group")
    assert_allclose(advantages, [-1, 1, -1, 1], rtol=1e-6)


@pytest.mark.parametrize("scale", SCALES)
def test_a_group_without_variance_gets_zeros_and_no_nan(scale):
    advantages = group_advantages(np.array([1.1, 1.1, 1.1]), np.array([3, 3, 3]), scale=scale)
    assert_allclose(advantages, 0, atol=1e-6)


@given(st.permutations(range(4)))
def test_advantages_follow_their_sequences(order):
    index = np.array(order)
    for scale in SCALES:
        permuted = group_advantages(REWARDS[index], GROUPS[index], scale=scale)
        assert_allclose(permuted, group_advantages(REWARDS, GROUPS, scale=scale)[index], rtol=1e-5)


def test_the_aggregations_differ_as_their_papers_do():
    lengths, groups = np.array([1, 3, 4, 8]), np.array([0, 0, 1, 1])
    weights = {
        a: token_weights(lengths, groups, np.zeros(4, bool), aggregation=a, max_tokens=10)
        for a in [*MEANS, "constant"]
    }
    assert_allclose(weights["group"], [1 / 8, 1 / 8, 1 / 24, 1 / 24])  # 1 / (2 * 4), 1 / (2 * 12)
    assert_allclose(weights["token"], [1 / 16] * 4)
    assert_allclose(weights["sequence"], [1 / 4, 1 / 12, 1 / 16, 1 / 32])
    assert_allclose(weights["constant"], [1 / 40] * 4)  # 4 sequences of at most 10


@pytest.mark.parametrize("aggregation", MEANS)
@given(data=st.data())
def test_weights_sum_to_one_over_the_tokens_of_a_minibatch(aggregation, data):
    size = data.draw(st.integers(1, 12))
    lengths = np.array(data.draw(st.lists(st.integers(1, 9999), min_size=size, max_size=size)))
    groups = np.array(data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size)))
    masked = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    weights = token_weights(lengths, groups, masked, aggregation=aggregation, max_tokens=9999)
    assert not weights[masked].any()
    if masked.all():
        return
    assert (weights * lengths).sum() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    ("rewards", "correct", "dropped_by"),
    [
        ([1.0, 1.0], [True, True], {"reward", "correctness"}),
        ([1.0, 0.9], [True, True], {"correctness"}),  # one is longer than the other
        ([1.0, 0.1], [True, False], set()),
        ([0.1, 0.1], [True, False], {"reward"}),
    ],
)
def test_a_group_is_dropped_by_the_equality_that_is_asked_for(rewards, correct, dropped_by):
    rules = ["reward", "correctness", "never"]
    for masked in ([False, False], [True, False]):
        dropped = {r for r in rules if is_zero_advantage(rewards, correct, masked, rule=r)}
        assert dropped == dropped_by


def test_a_group_that_is_masked_entirely_is_dropped_unless_nothing_is():
    rules = ["reward", "correctness", "never"]
    masked = [True, True]
    dropped = {r for r in rules if is_zero_advantage([1.0, 0.1], [True, False], masked, rule=r)}
    assert dropped == {"reward", "correctness"}


def test_masked_sequences_weigh_nothing_and_count_in_no_denominator():
    lengths, groups = np.array([1, 3, 4, 8, 5]), np.array([0, 0, 1, 1, 2])
    masked = np.array([False, True, False, False, True])
    weights = {
        a: token_weights(lengths, groups, masked, aggregation=a, max_tokens=10)
        for a in [*MEANS, "constant"]
    }
    assert_allclose(weights["group"], [1 / 2, 0, 1 / 24, 1 / 24, 0])  # two groups are left
    assert_allclose(weights["token"], [1 / 13, 0, 1 / 13, 1 / 13, 0])
    assert_allclose(weights["sequence"], [1 / 3, 0, 1 / 12, 1 / 24, 0])
    assert_allclose(weights["constant"], [1 / 30, 0, 1 / 30, 1 / 30, 0])
