"""Magistral's loss: hand arithmetic, what clipping stops, the whole objective in float64."""

import math

import numpy as np
import pytest
import torch

from megatron_rl.algorithm.losses import negative_log_likelihood
from megatron_rl.algorithm.packing import pack_row, plan
from megatron_rl.sequences import Sequences
from tests.unit.algorithm.objectives import apply, objective

MAGISTRAL = objective(loss="magistral")


def test_on_policy_loss_is_minus_the_weighted_advantage():
    logprobs_T = torch.tensor([-1.0, -2.0])
    loss, metrics = apply(
        MAGISTRAL,
        logprobs_T,
        logprobs_T,
        torch.tensor([3.0, -1.0]),
        torch.tensor([0.5, 0.5]),
    )
    assert loss.item() == pytest.approx(-1.0)  # -(0.5 * 3 + 0.5 * -1)
    assert {name: value.item() for name, value in metrics.items()} == {
        "policy/clip_fraction": 0,
        "policy/approx_kl": 0,
        "policy/logprob_difference": 0,
        "policy/ratio_mean": 1,
        "policy/ratio_max": 1,
        "policy/bounded_tokens": 0,
        "policy/entropy": 0,
        "policy/loss": -1,
    }


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "expected_gradient"),
    [
        (math.log(1.5), +1.0, 0.0),  # above the ceiling and still pushed up: clipped
        (math.log(1.5), -1.0, 1.5),  # above the ceiling but pushed down: free
        (math.log(0.5), -1.0, 0.0),  # below the floor and still pushed down: clipped
        (math.log(0.5), +1.0, -0.5),  # below the floor but pushed up: free
        (math.log(1.25), +1.0, -1.25),  # between 1 + clip_low and 1 + clip_high: free
    ],
)
def test_clip_stops_only_gradients_that_leave_the_trust_region(
    log_ratio, advantage, expected_gradient
):
    logprobs_T = torch.tensor([log_ratio], requires_grad=True)
    loss, _ = apply(
        MAGISTRAL,
        logprobs_T,
        torch.zeros(1),
        torch.tensor([advantage]),
        torch.ones(1),
    )
    loss.backward()
    assert logprobs_T.grad.item() == pytest.approx(expected_gradient)


def test_metrics_are_weighted_sums():
    log_ratio_T = torch.tensor([math.log(2.0), math.log(1.1), 7.0])
    weights_T = torch.tensor([0.25, 0.75, 0.0])
    _, metrics = apply(MAGISTRAL, log_ratio_T, torch.zeros(3), torch.ones(3), weights_T)
    # Ratio 2 is clipped, 1.1 is not, the third weighs nothing.
    assert metrics["policy/clip_fraction"].item() == pytest.approx(0.25)
    # 0.25 * (2 - 1 - ln 2) + 0.75 * (1.1 - 1 - ln 1.1)
    expected = 0.25 * (1 - math.log(2)) + 0.75 * (0.1 - math.log(1.1))
    assert metrics["policy/approx_kl"].item() == pytest.approx(expected, abs=1e-6)
    expected = 0.25 * math.log(2) + 0.75 * math.log(1.1)
    assert metrics["policy/logprob_difference"].item() == pytest.approx(expected)
    assert metrics["policy/ratio_mean"].item() == pytest.approx(0.25 * 2 + 0.75 * 1.1)
    assert metrics["policy/ratio_max"].item() == pytest.approx(2)


def test_garbage_in_padding_cannot_poison_the_gradient():
    logprobs_T = torch.tensor([-1.0, 1e4], requires_grad=True)
    loss, _ = apply(
        MAGISTRAL,
        logprobs_T,
        torch.tensor([-1.0, -1e4]),
        torch.ones(2),
        torch.tensor([1.0, 0.0]),
    )
    loss.backward()
    assert logprobs_T.grad.tolist() == [-1.0, 0.0]


def test_splitting_a_row_does_not_change_the_loss():
    torch.manual_seed(0)
    row = [torch.randn(6), torch.randn(6), torch.randn(6), torch.full((6,), 1 / 6)]
    whole, _ = apply(MAGISTRAL, *row)
    halves = [apply(MAGISTRAL, *(x[s] for x in row))[0] for s in (slice(3), slice(3, 6))]
    torch.testing.assert_close(whole, sum(halves))


def test_supervised_loss_is_the_weighted_surprise_and_ignores_padding():
    logprobs_T = torch.tensor([-1.0, -3.0, -math.inf], requires_grad=True)
    loss = negative_log_likelihood(logprobs_T, torch.tensor([0.25, 0.75, 0.0]))
    loss.backward()
    assert loss.item() == pytest.approx(2.5)  # 0.25 * 1 + 0.75 * 3
    assert logprobs_T.grad.tolist() == [-0.25, -0.75, 0.0]


def test_rows_add_up_to_the_recipes_objective_although_groups_are_spread_over_them():
    rng = np.random.default_rng(0)
    groups = [[4, 9, 2], [7, 1], [3, 3, 8, 5]]  # completion lengths; every prompt has 2 tokens
    sizes = [size for group in groups for size in group]
    weights = [1 / (len(groups) * sum(group)) for group in groups for _ in group]
    behavior = [rng.normal(-1, 0.5, size) for size in sizes]
    current = [old + rng.normal(0, 0.4, len(old)) for old in behavior]
    advantages = rng.normal(size=len(sizes))

    # 1/|G| sum over groups of 1/(sum |o_i|) sum_i sum_t min(...), as the paper prints it.
    objective, index = 0.0, 0
    for group in groups:
        total = 0.0
        for _ in group:
            ratio = np.exp(current[index] - behavior[index])
            clipped = np.clip(ratio, 0.8, 1.28)
            total += np.minimum(ratio * advantages[index], clipped * advantages[index]).sum()
            index += 1
        objective += total / sum(group) / len(groups)

    offsets = np.cumsum([0, *(size + 2 for size in sizes)])
    on_completion = np.concatenate([[False] * 2 + [True] * size for size in sizes])
    current_T = np.concatenate([[99, 99, *row] for row in current])
    sequences = Sequences(
        token_ids_T=np.arange(offsets[-1]),  # a token's id is its place, to find current_T again
        offsets=offsets,
        loss_mask_T=on_completion,
        behavior_logprobs_T=np.concatenate([[0, 0, *row] for row in behavior]),
        advantages_N=advantages,
        weights_N=np.array(weights),
    )
    loss, num_rows = 0.0, 0
    lengths = np.diff(offsets)
    for rows in plan(lengths, lengths, dp_size=2, token_budget=14):
        for row in rows:
            packed = pack_row(sequences, row, multiple=4)
            value, _ = apply(
                MAGISTRAL,
                torch.from_numpy(current_T[packed.targets_T]),
                torch.from_numpy(packed.behavior_logprobs_T),
                torch.from_numpy(packed.advantages_T),
                torch.from_numpy(packed.weights_T),
            )
            loss, num_rows = loss + value.item(), num_rows + 1
    assert num_rows > len(groups)
    assert loss == pytest.approx(-objective, abs=1e-12)
