import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from megatron_rl.rollout.assemble import assemble_batch
from megatron_rl.rollout.rollout_metrics import outcome_metrics, outcomes_of, staleness_metrics
from megatron_rl.types import Cursor
from tests.unit.records import make_group, make_sample

# Lengths 1 and 3 in one group, 2 and 2 in the other.
GROUPS = [
    make_group(
        3,
        make_sample(versions=[4], reward=1.0),
        make_sample(versions=[3, 4, 4], reward=0.1, correct=False, finish_reason="length"),
    ),
    make_group(
        1,
        make_sample(versions=[2, 2], reward=1.0),
        make_sample(versions=[4, 4], reward=0.5, correct=False),
    ),
]


def assemble(n_minibatch: int, groups=GROUPS):
    return assemble_batch(
        groups,
        n_minibatch=n_minibatch,
        scale="minibatch",
        aggregation="group",
        max_tokens=8,
        cursor=Cursor(next_index=5, outstanding=(2,)),
        metrics={"reward/total": 0.65},
    )


def test_groups_keep_their_order_and_go_to_minibatches_whole():
    batch = assemble(n_minibatch=2)
    assert batch.groups_N.tolist() == [3, 3, 1, 1]
    assert batch.minibatches_N.tolist() == [0, 0, 1, 1]
    assert batch.cursor == Cursor(next_index=5, outstanding=(2,))
    assert batch.metrics == {"reward/total": 0.65}


def test_advantages_and_weights_are_of_each_minibatch():
    batch = assemble(n_minibatch=2)
    assert_allclose(batch.sequences.advantages_N, [1, -1, 1, -1], rtol=1e-6)
    assert_allclose(batch.sequences.weights_N, [1 / 4] * 4)  # four tokens in either group
    whole = assemble(n_minibatch=4)
    # Centred 0.45, -0.45, 0.25, -0.25: variance (2 * 0.2025 + 2 * 0.0625) / 4 = 0.1325.
    expected = np.array([0.45, -0.45, 0.25, -0.25]) / np.sqrt(0.1325)
    assert_allclose(whole.sequences.advantages_N, expected, rtol=1e-5)
    assert_allclose(whole.sequences.weights_N, [1 / 8] * 4)


def test_a_masked_completion_keeps_its_place_in_the_baseline_and_has_no_weight():
    cut = make_sample(versions=[3, 4, 4], reward=0.1, finish_reason="length", is_masked=True)
    masked = [make_group(3, GROUPS[0].samples[0], cut), GROUPS[1]]
    batch, unmasked = assemble(4, masked), assemble(4)
    assert_allclose(batch.sequences.advantages_N, unmasked.sequences.advantages_N)
    # Two groups of 1 and of 4 tokens.
    assert_allclose(batch.sequences.weights_N, [1 / 2, 0, 1 / 8, 1 / 8])
    metrics = staleness_metrics(masked, step=5)
    assert metrics["rollout/masked_completions"] == 1
    assert metrics["rollout/trained_completions"] == 3
    assert metrics["rollout/trained_tokens"] == 5
    assert metrics["rollout/staleness_mean"] == pytest.approx((1 + 3 + 3 + 1 + 1) / 5)


def test_a_batch_of_nothing_but_masked_completions_weighs_nothing():
    cut = make_sample(versions=[3], finish_reason="length", is_masked=True)
    groups = [make_group(0, cut, cut), make_group(1, cut, cut)]
    assert not assemble(4, groups).sequences.weights_N.any()
    metrics = staleness_metrics(groups, step=5)
    assert metrics["rollout/trained_completions"] == metrics["rollout/trained_tokens"] == 0
    assert metrics["rollout/staleness_max"] == 0


def test_staleness_counts_versions_between_sampling_and_training():
    metrics = staleness_metrics(GROUPS, step=5)
    # Versions 4 | 3 4 4 | 2 2 | 4 4 are 1 | 2 1 1 | 3 3 | 1 1 old.
    assert metrics["rollout/staleness_mean"] == pytest.approx(13 / 8)
    assert metrics["rollout/staleness_max"] == 3
    assert metrics["rollout/spanning_fraction"] == 1 / 4


def test_outcomes_are_means_over_completions():
    metrics = outcome_metrics([outcome for group in GROUPS for outcome in outcomes_of(group)])
    assert metrics == {
        "reward/total": pytest.approx(2.6 / 4),
        "reward/format": pytest.approx(0.1),
        "reward/correctness": pytest.approx(2.2 / 4),
        "rollout/correct": 0.5,
        "rollout/length_mean": 2.0,
        "rollout/length_max": 3.0,
        "rollout/truncated": 0.25,
    }


@given(
    sizes=st.lists(st.sampled_from([2, 4, 8]), min_size=1, max_size=40),
    num_minibatches=st.integers(1, 3),
)
def test_minibatches_of_groups_of_any_size_are_whole_and_within_a_group_of_exact(
    sizes: list[int], num_minibatches: int
):
    n_batch = 8 * num_minibatches
    count = next((k for k in range(len(sizes) + 1) if sum(sizes[:k]) >= n_batch), None)
    if count is None:
        return
    groups = [
        make_group(i, make_sample(reward=1.0), *[make_sample(reward=0.1)] * (size - 1))
        for i, size in enumerate(sizes[:count])
    ]
    batch = assemble(8, groups)
    assert batch.num_minibatches == num_minibatches
    for group in groups:
        assert len(set(batch.minibatches_N[batch.groups_N == group.index].tolist())) == 1
    ends = np.cumsum(np.bincount(batch.minibatches_N))
    for number, end in enumerate(ends, start=1):
        assert 0 <= end - 8 * number < 8  # 8 is the largest group
    weights = [batch.sequences.weights_N[batch.minibatches_N == i] for i in range(num_minibatches)]
    assert all(weight.sum() * 2 == pytest.approx(1, abs=1e-5) for weight in weights)
