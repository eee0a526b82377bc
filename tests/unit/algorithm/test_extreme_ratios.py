"""Gradients at ratios of any size, of every loss and correction, against float64 formulas."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from megatron_rl.algorithm.losses import CORRECTIONS, LOSSES, PolicyObjective
from tests.unit.algorithm.objectives import apply, objective

BOUND = 20.0
KL = 0.1
EDGES = [0.0, 11.0, 19.9, 20.1, 88.0, 89.0, 100.0, 1e3, 1e4, 1e8, 1e30]
LOG_RATIOS = st.one_of(
    st.floats(-3, 3), st.sampled_from([*EDGES, *(-edge for edge in EDGES)]), st.floats(-200, 200)
)
TOKENS = st.lists(
    st.tuples(LOG_RATIOS, LOG_RATIOS, LOG_RATIOS, st.sampled_from([-2.0, -0.5, 0.0, 1.5])),
    min_size=1,
    max_size=6,
)
FOUR_CORNERS = [(a, b, 0.0, c) for a in (100.0, -100.0) for b in (100.0, -100.0) for c in (-1.0, 1)]


def expected_gradient(
    wanted: PolicyObjective,
    logprobs_T: np.ndarray,
    loss_ratio_T: np.ndarray,
    correction_ratio_T: np.ndarray,
    kl_ratio_T: np.ndarray,
    advantages_T: np.ndarray,
    weights_T: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return d loss / d logprobs by the papers' formulas, and which tokens lie near an edge.

    Ratios are logarithms in float64. A ratio beyond the bound has no gradient.
    """
    if wanted.loss == "gspo":
        loss_ratio_T = np.full_like(loss_ratio_T, loss_ratio_T.mean())
    if wanted.correction is not None and wanted.correction.level == "sequence":
        correction_ratio_T = np.full_like(correction_ratio_T, correction_ratio_T.sum())
    low, high = 1 - wanted.clip_low, 1 + wanted.clip_high
    ratio_T = np.exp(np.minimum(loss_ratio_T, BOUND))
    if wanted.loss == "cispo":
        term_T = np.clip(ratio_T, low, high) * advantages_T
    else:
        is_stopped_T = ((advantages_T > 0) & (ratio_T > high)) | (
            (advantages_T < 0) & (ratio_T < low)
        )
        term_T = np.where(is_stopped_T | (loss_ratio_T > BOUND), 0.0, ratio_T * advantages_T)
    edges = [(loss_ratio_T, low), (loss_ratio_T, high)]
    if wanted.correction is not None:
        k_T = np.exp(np.minimum(correction_ratio_T, BOUND))
        bounds = wanted.correction.low, wanted.correction.high
        kept_T = (k_T >= bounds[0]) & (k_T <= bounds[1])
        is_tis = wanted.correction.name == "tis"
        term_T = term_T * (np.clip(k_T, *bounds) if is_tis else np.where(kept_T, k_T, 0.0))
        edges += [(correction_ratio_T, bound) for bound in bounds]
    # d k3 / d log p = 1 - q / p.
    pull_T = np.where(kl_ratio_T > BOUND, 0.0, 1 - np.exp(np.minimum(kl_ratio_T, BOUND)))
    edges += [(ratio, math.exp(BOUND)) for ratio in (loss_ratio_T, kl_ratio_T)]
    is_near_T = np.zeros(len(logprobs_T), dtype=bool)
    for log_T, edge in edges:
        is_near_T |= np.abs(log_T - (math.log(edge) if edge > 0 else -math.inf)) < 0.02
    return weights_T * (-term_T + wanted.kl_coefficient * pull_T), is_near_T


def difference(left_T: torch.Tensor, right_T: torch.Tensor) -> np.ndarray:
    """Subtract in the tensors' own precision, and return float64."""
    return (left_T - right_T).detach().double().numpy()


ALGORITHMS = [
    {"loss": loss, "correction": correction, "correction_level": level}
    for loss in LOSSES
    for correction, level in [("none", "token"), *itertools.product(CORRECTIONS, ["token"])]
] + [
    {"loss": loss, "correction": correction, "correction_level": "sequence"}
    for loss in LOSSES
    for correction in CORRECTIONS
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: "-".join(a.values()))
@settings(max_examples=15, deadline=None)
@given(TOKENS)
@example(FOUR_CORNERS)
@example([(1e30, 1e30, 1e30, -1.0), (-1e30, -1e30, -1e30, 1.0)])
def test_the_gradient_is_the_formulas_or_zero_beyond_the_bound(dtype, algorithm, tokens):
    wanted = objective(**algorithm, kl_coefficient=KL)
    to_anchor, to_generator, to_reference, advantages = zip(*tokens, strict=True)
    logprobs_T = torch.full((len(tokens),), -1.5, dtype=dtype, requires_grad=True)
    current_T = logprobs_T.detach()
    old_T = current_T - torch.tensor(to_anchor, dtype=dtype)
    has_correction = wanted.correction is not None
    behavior_T = old_T - torch.tensor(to_generator, dtype=dtype) if has_correction else old_T
    reference_T = current_T + torch.tensor(to_reference, dtype=dtype)
    weights_T = torch.full((len(tokens),), 1 / len(tokens))
    advantages_T = torch.tensor(advantages)
    loss, metrics = apply(
        wanted,
        logprobs_T,
        behavior_T,
        advantages_T,
        weights_T,
        old_logprobs_T=old_T,
        reference_logprobs_T=reference_T,
    )
    loss.backward()
    assert logprobs_T.grad.isfinite().all()
    assert loss.isfinite()
    assert all(value.isfinite() for value in metrics.values()), metrics
    expected_T, is_near_T = expected_gradient(
        wanted,
        current_T.double().numpy(),
        difference(current_T, old_T),
        difference(old_T, behavior_T),
        difference(reference_T, current_T),
        advantages_T.double().numpy(),
        weights_T.double().numpy(),
    )
    # Rounding in a mean or a sum over the sequence may move a ratio by more than its own digits.
    is_summed = wanted.loss == "gspo" or algorithm["correction_level"] == "sequence"
    if is_summed and (dtype == torch.bfloat16 or max(map(abs, to_anchor + to_generator)) > 200):
        return
    close = {"rel": 2e-2, "abs": 1e-2} if dtype == torch.bfloat16 else {"rel": 1e-4, "abs": 1e-6}
    actual_T = logprobs_T.grad.double().numpy()
    assert actual_T[~is_near_T] == pytest.approx(expected_T[~is_near_T], **close)


@pytest.mark.parametrize("loss", LOSSES)
def test_below_the_bound_nothing_changes_bit_for_bit(loss):
    torch.manual_seed(0)
    row = [torch.randn(64) * 3, torch.randn(64) * 3, torch.randn(64), torch.rand(64)]
    results = []
    for bound in (20.0, 80.0):
        logprobs_T = row[0].clone().requires_grad_()
        value, metrics = apply(objective(loss=loss, log_ratio_bound=bound), logprobs_T, *row[1:])
        value.backward()
        results.append((value.item(), logprobs_T.grad.tolist(), metrics))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("more", "ratios", "expected"),
    [
        ({}, {}, 2),  # tokens of log-ratio 25 and 100
        ({"log_ratio_bound": 50.0}, {}, 1),
        ({"loss": "cispo"}, {}, 2),
        ({"loss": "gspo"}, {}, 4),  # the sequence's mean is (25 + 100 + 1 - 30) / 4 = 24
        ({"loss": "gspo", "log_ratio_bound": 25.0}, {}, 0),
        # Ratios to the old policy are 1; k has the same logarithms, and their sum is 96.
        ({"correction": "icepop"}, {"old_logprobs_T": None}, 2),
        ({"correction": "mis", "correction_level": "sequence"}, {"old_logprobs_T": None}, 4),
        # Only the last token's reference is e^21 times as likely.
        ({"kl_coefficient": 0.1}, {"reference_logprobs_T": [-2.0, -2.0, -2.0, 19.0]}, 3),
    ],
    ids=str,
)
def test_bounded_tokens_are_counted(more, ratios, expected):
    logprobs_T = torch.full((5,), -2.0)
    behavior_T = logprobs_T - torch.tensor([25.0, 100.0, 1.0, -30.0, 1e4])
    weights_T = torch.tensor([0.25, 0.25, 0.25, 0.25, 0.0])  # the fifth is padding
    given_ = {
        name: None if value is None else torch.tensor([*value, math.nan])
        for name, value in ratios.items()
    }
    wanted = objective(**more)
    _, metrics = apply(
        wanted, logprobs_T, behavior_T, torch.ones(5), weights_T, lengths=[4, 1], **given_
    )
    assert metrics["policy/bounded_tokens"] == expected


def test_a_token_pushed_down_beyond_the_bound_has_its_bounded_value_and_no_gradient():
    logprobs_T = torch.tensor([-1.0], requires_grad=True)
    behavior_T = torch.tensor([-101.0])
    loss, metrics = apply(
        objective(log_ratio_bound=5.0), logprobs_T, behavior_T, torch.tensor([-2.0]), torch.ones(1)
    )
    loss.backward()
    assert loss.item() == pytest.approx(2 * math.exp(5))  # -(min(r A, 1.28 A)) = e^5 * 2
    assert logprobs_T.grad.item() == 0
    assert metrics["policy/ratio_max"].item() == pytest.approx(math.exp(5))


def test_the_log_prob_of_a_generator_that_calls_a_token_impossible_is_bounded_too():
    for name in LOSSES:
        logprobs_T = torch.tensor([-1.0, -2.0], requires_grad=True)
        behavior_T = torch.tensor([-math.inf, -2.0])
        loss, _ = apply(
            objective(loss=name), logprobs_T, behavior_T, -torch.ones(2), torch.full((2,), 0.5)
        )
        loss.backward()
        assert loss.isfinite(), name
        assert logprobs_T.grad.isfinite().all(), name


def test_a_minibatch_whose_completions_are_all_masked_is_worth_nothing():
    logprobs_T = torch.tensor([-1.0, -2.0], requires_grad=True)
    loss, metrics = apply(
        objective(), logprobs_T, logprobs_T, torch.ones(2), torch.zeros(2), weight_sum=0.0
    )
    loss.backward()
    assert loss == 0
    assert logprobs_T.grad.tolist() == [0, 0]
    assert not any(metrics.values())
