"""Losses by name: hand arithmetic, what stops gradients, and how sequences are laid out."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_rl.algorithm.losses import CORRECTIONS, LOSSES, sum_over_sequence
from megatron_rl.config.algorithm import CORRECTION_DEFAULTS, LOSS_DEFAULTS
from tests.unit.algorithm.objectives import Completions, apply, loss_of_rows, objective

LOG2 = math.log(2)
FIRST = torch.tensor([1.0, 0.0])


def value_and_gradient(wanted, log_ratio, advantages, weights, **more):
    """Ratios are to a generator that gave every token a log-prob of -1."""
    behavior_T = torch.full((len(log_ratio),), -1.0)
    logprobs_T = (behavior_T + torch.tensor(log_ratio)).requires_grad_()
    loss, metrics = apply(
        wanted, logprobs_T, behavior_T, torch.tensor(advantages), torch.tensor(weights), **more
    )
    loss.backward()
    return loss.item(), logprobs_T.grad.tolist(), {k: v.item() for k, v in metrics.items()}


def test_every_name_of_the_configuration_is_in_the_tables():
    assert LOSSES.keys() == LOSS_DEFAULTS.keys()
    assert CORRECTIONS.keys() == CORRECTION_DEFAULTS.keys()


@pytest.mark.parametrize("name", ["dapo", "dr_grpo", "grpo"])
def test_losses_clipped_by_token_are_magistrals_with_other_settings(name):
    torch.manual_seed(0)
    row = [torch.randn(8), torch.randn(8), torch.randn(8), torch.rand(8)]
    clip = {"clip_low": 0.1, "clip_high": 0.3}
    actual, metrics = apply(objective(loss=name, **clip), *row)
    expected, expected_metrics = apply(objective(loss="magistral", **clip), *row)
    assert torch.equal(actual, expected)
    assert metrics == expected_metrics


def test_gspo_has_one_ratio_per_sequence_the_geometric_mean_of_its_tokens():
    # Ratios 2 and 1/2 have mean 1: on policy as a sequence, although no token is.
    loss, gradient, metrics = value_and_gradient(
        objective(loss="gspo"), [LOG2, -LOG2], [3.0, 3.0], [0.5, 0.5]
    )
    assert loss == pytest.approx(-3.0)  # -(0.5 + 0.5) * 1 * 3
    # d s / d logp = s / 2 for each of two tokens: -3 * 1 / 2.
    assert gradient == pytest.approx([-1.5, -1.5])
    assert metrics["policy/clip_fraction"] == 0
    assert metrics["policy/ratio_max"] == pytest.approx(1.0)


def test_gspo_clips_whole_sequences():
    # Two sequences of two tokens: s = 2 (log 2 and log 2) and s = sqrt(2) (log 2 and 0).
    loss, gradient, metrics = value_and_gradient(
        objective(loss="gspo", clip_low=0.2, clip_high=0.5),
        [LOG2, LOG2, LOG2, 0.0],
        [1.0, 1.0, 1.0, 1.0],
        [0.25, 0.25, 0.25, 0.25],
        lengths=[2, 2],
    )
    assert loss == pytest.approx(-(0.5 * 1.5 + 0.5 * math.sqrt(2)))
    assert gradient == pytest.approx([0, 0, -0.25 * math.sqrt(2), -0.25 * math.sqrt(2)])
    assert metrics["policy/clip_fraction"] == pytest.approx(0.5)
    assert metrics["policy/ratio_max"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "expected_weight"),
    [
        (math.log(8), +1.0, 5.0),  # above the ceiling: weighs 5, but is not silenced
        (math.log(8), -1.0, 5.0),
        (math.log(0.01), -1.0, 0.01),  # there is no floor
        (math.log(3), +2.0, 3.0),
    ],
)
def test_cispo_weighs_every_token_by_its_clipped_ratio(log_ratio, advantage, expected_weight):
    loss, gradient, _ = value_and_gradient(objective(loss="cispo"), [log_ratio], [advantage], [1.0])
    assert loss == pytest.approx(-expected_weight * advantage * (log_ratio - 1))
    assert gradient == pytest.approx([-expected_weight * advantage])


@pytest.mark.parametrize(
    ("settings", "log_old", "expected_weight"),
    [
        ({"correction": "tis"}, math.log(8), 2.0),
        ({"correction": "tis"}, math.log(0.1), 0.1),
        ({"correction": "mis"}, math.log(8), 0.0),
        ({"correction": "mis"}, math.log(1.9), 1.9),
        ({"correction": "icepop"}, math.log(4), 4.0),
        ({"correction": "icepop"}, math.log(6), 0.0),
        ({"correction": "icepop"}, math.log(0.4), 0.0),
        ({"correction": "tis", "correction_high": 3.0}, math.log(8), 3.0),
    ],
)
def test_a_correction_weighs_the_ratio_to_the_old_policy(settings, log_old, expected_weight):
    # Learner at the start of the batch 1.1 times below now: ratio 1.1 is inside the clip.
    loss, gradient, metrics = value_and_gradient(
        objective(**settings),
        [log_old + math.log(1.1)],
        [2.0],
        [1.0],
        old_logprobs_T=torch.tensor([log_old - 1.0]),
    )
    assert loss == pytest.approx(-expected_weight * 1.1 * 2, rel=1e-5)
    assert gradient == pytest.approx([-expected_weight * 1.1 * 2], rel=1e-5)
    assert metrics["policy/ratio_mean"] == pytest.approx(1.1, rel=1e-5)
    assert metrics["correction/weight_mean"] == pytest.approx(expected_weight)
    assert metrics["correction/ratio_max"] == pytest.approx(math.exp(log_old), rel=1e-5)
    is_changed = expected_weight != pytest.approx(math.exp(log_old))
    assert metrics["correction/changed_fraction"] == is_changed


def test_in_the_only_step_of_a_batch_the_old_policy_is_the_current_one():
    settings = objective(correction="tis")
    given_, omitted = (
        value_and_gradient(settings, [0.3, -0.2], [1.0, -1.0], [0.5, 0.5], old_logprobs_T=old)
        for old in (torch.tensor([-0.7, -1.2]), None)
    )
    assert given_ == omitted
    # Nothing is clipped and the gradient is -w * k * A.
    assert omitted[1] == pytest.approx([-0.5 * math.exp(0.3), 0.5 * math.exp(-0.2)])


def test_a_sequence_is_corrected_by_the_product_of_its_ratios():
    # k = 1.5 * 1.5 = 2.25 > 2 masks both tokens of the first; the second has k = 1.5.
    log_k = math.log(1.5)
    _, gradient, metrics = value_and_gradient(
        objective(correction="mis", correction_level="sequence"),
        [log_k, log_k, log_k],
        [1.0, 1.0, 1.0],
        [0.25, 0.25, 0.5],
        lengths=[2, 1],
    )
    assert gradient == pytest.approx([0, 0, -0.75])
    assert metrics["correction/changed_fraction"] == pytest.approx(0.5)


def test_the_kl_penalty_is_k3_and_pulls_towards_the_reference():
    loss, gradient, metrics = value_and_gradient(
        objective(kl_coefficient=0.1),
        [0.0, 0.0],
        [0.0, 0.0],
        [1.0, 0.0],
        reference_logprobs_T=torch.tensor([-1.0 + LOG2, math.nan]),
    )
    # q/p = 2: k3 = 2 - ln 2 - 1, and d k3 / d log p = 1 - q/p = -1.
    assert metrics["policy/reference_kl"] == pytest.approx(1 - LOG2)
    assert loss == pytest.approx(0.1 * (1 - LOG2))
    assert gradient == pytest.approx([-0.1, 0.0])


def test_the_entropy_bonus_is_subtracted_and_has_its_own_gradient():
    entropy_T = torch.tensor([2.0, math.inf], requires_grad=True)
    zeros = torch.zeros(2)
    loss, metrics = apply(
        objective(entropy_coefficient=0.5), zeros, zeros, zeros, FIRST, entropy_T=entropy_T
    )
    loss.backward()
    assert loss.item() == pytest.approx(-1.0)
    assert entropy_T.grad.tolist() == [-0.5, 0.0]
    assert metrics["policy/entropy"].item() == pytest.approx(2.0)


@pytest.mark.parametrize("correction", ["none", *CORRECTIONS])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("garbage", [1e4, math.inf, -math.inf, math.nan])
def test_garbage_where_there_is_no_token_changes_nothing(name, correction, level, garbage):
    wanted = objective(loss=name, correction=correction, correction_level=level, kl_coefficient=0.1)
    current = torch.tensor([-1.0, garbage], requires_grad=True)
    other = torch.tensor([-1.1, -1e4])
    loss, metrics = apply(wanted, current, other, torch.ones(2), FIRST, reference_logprobs_T=other)
    loss.backward()
    alone = torch.tensor([-1.0], requires_grad=True)
    expected, expected_metrics = apply(
        wanted, alone, other[:1], torch.ones(1), torch.ones(1), reference_logprobs_T=other[:1]
    )
    expected.backward()
    assert loss.item() == pytest.approx(expected.item())
    assert current.grad.tolist() == [pytest.approx(alone.grad.item()), 0.0]
    assert {k: v.item() for k, v in metrics.items()} == pytest.approx(
        {k: v.item() for k, v in expected_metrics.items()}
    )


def test_a_row_without_tokens_is_worth_nothing():
    for name, correction in itertools.product(LOSSES, CORRECTIONS):
        zeros = torch.zeros(4)
        loss, metrics = apply(
            objective(loss=name, correction=correction), zeros, zeros, zeros, zeros
        )
        assert loss == 0
        assert not any(metrics.values())


ALGORITHMS = [
    *({"loss": name} for name in LOSSES),
    {"loss": "gspo", "clip_low": 0.3, "clip_high": 0.5},
    {"loss": "gspo", "correction": "tis", "correction_level": "sequence"},
    {"loss": "magistral", "correction": "mis", "correction_level": "sequence"},
    {"loss": "dapo", "correction": "icepop", "kl_coefficient": 0.1, "entropy_coefficient": 0.1},
    {"loss": "cispo", "aggregation": "group", "correction": "tis"},
]


def completions_of(lengths, seed):
    generator = torch.Generator().manual_seed(seed)

    def normal(size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    total = sum(lengths)
    current_T = normal(total) - 2
    return Completions(
        lengths=lengths,
        groups=[i // 2 for i in range(len(lengths))],
        advantages_N=normal(len(lengths)),
        logprobs_T=current_T,
        old_logprobs_T=current_T + 0.2 * normal(total),
        behavior_logprobs_T=current_T + 0.4 * normal(total),
        reference_logprobs_T=current_T + normal(total),
        entropy_T=normal(total).abs(),
        max_tokens=12,
    )


@st.composite
def layouts(draw):
    """Lengths of some sequences, and two ways to lay them out as (rows, prompt length)."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=2, max_size=8))
    ways = []
    for _ in range(2):
        order = draw(st.permutations(range(len(lengths))))
        cuts = sorted(draw(st.sets(st.integers(1, len(lengths) - 1))))
        rows = [list(order[a:b]) for a, b in itertools.pairwise([0, *cuts, len(lengths)])]
        ways.append((rows, draw(st.integers(0, 3))))
    return lengths, ways


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
@settings(max_examples=25, deadline=None)
@given(layouts(), st.integers(0, 1000))
def test_the_layout_of_sequences_over_rows_changes_neither_loss_nor_gradient(
    algorithm, layouts, seed
):
    lengths, ways = layouts
    completions = completions_of(lengths, seed)
    (loss, gradient_T, metrics), (other, other_gradient_T, other_metrics) = (
        loss_of_rows(completions, rows, prompt=prompt, **algorithm) for rows, prompt in ways
    )
    assert loss == pytest.approx(other, rel=1e-9, abs=1e-12)
    torch.testing.assert_close(gradient_T, other_gradient_T, rtol=1e-9, atol=1e-12)
    assert metrics == pytest.approx(other_metrics, rel=1e-9, abs=1e-12)


@settings(deadline=None)
@given(layouts(), st.integers(0, 1000))
def test_metrics_are_means_over_tokens_although_a_constant_divides_the_loss(layouts, seed):
    lengths, ways = layouts
    completions = completions_of(lengths, seed)
    (rows, prompt), _ = ways
    _, _, metrics = loss_of_rows(completions, rows, prompt=prompt, loss="dr_grpo")
    assert metrics["policy/entropy"] == pytest.approx(completions.entropy_T.mean().item(), rel=1e-6)


def test_ranks_that_share_sequences_add_up_their_parts():
    values_T = torch.tensor([1.0, 2.0, 3.0, 4.0])
    # Two ranks hold two tokens each of a sequence, then one each of another and none of a third.
    lengths_S = torch.tensor([3, 1, 0])
    other_S = torch.tensor([10.0, 20.0, 0.0])
    mine = sum_over_sequence(values_T, lengths_S, add_up=lambda sums_S: sums_S.add_(other_S))
    assert mine.tolist() == [16.0, 16.0, 16.0, 24.0]  # 1 + 2 + 3 + 10, 4 + 20
    alone = sum_over_sequence(values_T, lengths_S, add_up=None)
    assert alone.tolist() == [6.0, 6.0, 6.0, 4.0]


def test_gspos_gradient_is_that_of_its_sequence_ratio_written_out():
    rng = np.random.default_rng(0)
    log_ratio = rng.normal(0, 0.1, 5)
    _, gradient, _ = value_and_gradient(
        objective(loss="gspo", clip_low=0.9, clip_high=0.9), log_ratio, [1.5] * 5, [0.2] * 5
    )
    plain_T = torch.tensor(log_ratio, requires_grad=True)
    (-1.5 * plain_T.mean().exp()).backward()
    assert gradient == pytest.approx(plain_T.grad.tolist())
