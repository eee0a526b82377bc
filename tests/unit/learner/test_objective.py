"""On one rank: which policies an objective compares with, and the entropy's gradient."""

import dataclasses

import numpy as np
import pytest
import torch

from megatron_rl.algorithm.losses import Correction, PolicyObjective
from megatron_rl.batch import Batch
from megatron_rl.conversion.families import model_spec
from megatron_rl.learner.learner import Learner, LearnerSettings
from megatron_rl.learner.logprobs import token_logprobs_and_entropy
from tests.distributed.tiny_policy import CONFIG, SETTINGS, make_batches, with_sequences

PLAIN: PolicyObjective = SETTINGS["objective"]
TIS = Correction(name="tis", level="token", low=0.0, high=2.0)


@pytest.fixture
def learner_of(parallel, platform):
    def build(**changes) -> Learner:
        objective = dataclasses.replace(PLAIN, **changes)
        settings = LearnerSettings(**(SETTINGS | {"objective": objective}))
        return Learner(model_spec(CONFIG), settings, parallel, platform, pretrained=None, seed=3)

    return build


def part_of(batch: Batch, minibatch: int) -> Batch:
    """Return a batch of one step, with the sequences of ``minibatch`` alone."""
    chosen = batch.minibatches_N == minibatch
    on_chosen = np.repeat(chosen, batch.sequences.lengths_N)
    per_token = ("token_ids_T", "behavior_logprobs_T", "loss_mask_T")
    per_sequence = ("advantages_N", "weights_N")
    sequences = dataclasses.replace(
        batch.sequences,
        **{name: getattr(batch.sequences, name)[on_chosen] for name in per_token},
        **{name: getattr(batch.sequences, name)[chosen] for name in per_sequence},
        offsets=np.cumsum([0, *batch.sequences.lengths_N[chosen]]),
    )
    return dataclasses.replace(
        batch,
        sequences=sequences,
        policy_versions_T=batch.policy_versions_T[on_chosen],
        groups_N=batch.groups_N[chosen],
        minibatches_N=np.zeros(chosen.sum(), dtype=np.int64),
    )


def per_token(learner: Learner, batch: Batch) -> np.ndarray:
    """Return the log-probs of all completion tokens, sequence after sequence."""
    logprobs = np.concatenate([[0.0, *row.tolist()] for row in learner.logprobs(batch.sequences)])
    return logprobs[batch.sequences.loss_mask_T]


def token_values(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    weights, advantages = (
        np.repeat(x, batch.sequences.lengths_N)[batch.sequences.loss_mask_T]
        for x in (batch.sequences.weights_N, batch.sequences.advantages_N)
    )
    return weights, advantages, batch.sequences.behavior_logprobs_T[batch.sequences.loss_mask_T]


def test_the_old_policy_is_that_of_the_batchs_start_in_every_step(learner_of):
    (batch,) = make_batches(1, num_minibatches=2)
    metrics = learner_of(correction=TIS).update(batch)

    # The same two steps by hand: where the policy stands before each, and before both.
    stepwise = learner_of(correction=TIS)
    first, second = part_of(batch, 0), part_of(batch, 1)
    old = per_token(stepwise, second)
    losses = [stepwise.update(first)["policy/loss"]]
    weights, advantages, behavior = token_values(second)
    ratio = np.exp(per_token(stepwise, second) - old)
    clipped = ratio.clip(1 - PLAIN.clip_low, 1 + PLAIN.clip_high)
    term = np.minimum(ratio * advantages, clipped * advantages)
    losses.append(-(weights * np.minimum(np.exp(old - behavior), 2) * term).sum())
    assert metrics["policy/loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    # The first step is on policy, the second is not.
    assert metrics["policy/ratio_max"] == pytest.approx(ratio.max(), rel=1e-4)
    assert ratio.max() > 1.01


def test_a_batch_of_one_step_needs_no_pass_for_the_old_policy(learner_of):
    (batch,) = make_batches(1)
    learner = learner_of(correction=TIS)
    weights, advantages, behavior = token_values(batch)
    correction = np.minimum(np.exp(per_token(learner, batch) - behavior), 2)
    metrics = learner.update(batch)
    assert metrics["policy/loss"] == pytest.approx(-(weights * correction * advantages).sum(), 1e-4)
    assert metrics["policy/ratio_mean"] == pytest.approx(1)
    assert metrics["policy/clip_fraction"] == 0
    assert metrics["correction/weight_mean"] == pytest.approx((weights * correction).sum(), 1e-4)


def test_the_reference_stays_where_training_started(learner_of):
    first, second = make_batches(2)
    learner = learner_of(kl_coefficient=0.1)
    reference = per_token(learner, second)
    metrics = learner.update(first)
    assert metrics["policy/reference_kl"] == pytest.approx(0, abs=1e-6)
    log_ratio = reference - per_token(learner, second)
    weights, _, _ = token_values(second)
    expected = (weights * (np.exp(log_ratio) - 1 - log_ratio)).sum()
    assert expected > 1e-5
    assert learner.update(second)["policy/reference_kl"] == pytest.approx(expected, rel=1e-3)


def test_the_entropy_bonus_raises_the_entropy(learner_of):
    (batch,) = make_batches(1)
    batch = with_sequences(batch, advantages_N=np.zeros_like(batch.sequences.advantages_N))
    learner = learner_of(entropy_coefficient=1.0)
    entropies = [learner.update(batch)["policy/entropy"] for _ in range(4)]
    assert entropies == sorted(entropies)
    assert entropies[-1] > entropies[0] + 1e-3


def test_metrics_are_means_although_the_weights_do_not_add_up_to_one(learner_of):
    (batch,) = make_batches(1)
    scaled = with_sequences(batch, weights_N=batch.sequences.weights_N / 8)
    plain, divided = (learner_of().update(b) for b in (batch, scaled))
    assert divided["policy/loss"] == pytest.approx(plain["policy/loss"] / 8, rel=1e-5)
    for name in ("policy/entropy", "policy/clip_fraction", "policy/ratio_mean"):
        assert divided[name] == pytest.approx(plain[name], rel=1e-5)


def test_the_entropys_gradient_is_that_of_float64(parallel):
    torch.manual_seed(0)
    logits_TV = (torch.randn(20, 16) * 5).requires_grad_()
    targets_T, weights_T = torch.randint(0, 13, (20,)), torch.rand(20)
    logprobs_T, entropy_T = token_logprobs_and_entropy(
        logits_TV,
        torch.eye(logits_TV.shape[1]),
        targets_T,
        temperature=0.7,
        entropy_has_gradient=True,
        num_real=13,  # the last three entries are padding
        tp_group=parallel.tp_group,
        chunk_tokens=7,
        is_fp32=False,
    )
    (weights_T * (logprobs_T + 3 * entropy_T)).sum().backward()

    double_TV = logits_TV.detach().double().requires_grad_()
    scores_TV = torch.log_softmax(double_TV[:, :13] / 0.7, dim=-1)
    chosen_T = scores_TV.gather(1, targets_T[:, None])[:, 0]
    expected_T = -(scores_TV.exp() * scores_TV).sum(-1)
    (weights_T * (chosen_T + 3 * expected_T)).sum().backward()
    torch.testing.assert_close(entropy_T.double(), expected_T, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits_TV.grad.double(), double_TV.grad, atol=1e-5, rtol=0)
