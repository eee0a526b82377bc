"""Policy objective of one packed row: a named loss, its correction, KL and entropy.

Shape letters: T = tokens of one packed row.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_rl.algorithm.losses.corrections import Correction, correction_weights
from megatron_rl.algorithm.losses.sequences import SumOverSequence
from megatron_rl.algorithm.losses.surrogates import LOSSES, TokenTerms, masked_difference

Metrics = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyObjective:
    """Settings of the objective; meanings as in config.algorithm."""

    loss: str
    """A key of LOSSES."""
    clip_low: float
    clip_high: float
    log_ratio_bound: float
    correction: Correction | None
    kl_coefficient: float
    entropy_coefficient: float


def policy_objective(
    objective: PolicyObjective,
    *,
    logprobs_T: Tensor,
    entropy_T: Tensor,
    behavior_logprobs_T: Tensor,
    old_logprobs_T: Tensor | None,
    reference_logprobs_T: Tensor | None,
    advantages_T: Tensor,
    weights_T: Tensor,
    weight_sum: float,
    sum_over_sequence: SumOverSequence,
) -> tuple[Tensor, Metrics]:
    """Return ``-sum w (c term - kl_coefficient * k3 + entropy_coefficient * H)`` and metrics.

    Args:
        logprobs_T: [T] float32 log-probability of each token under the learner, with gradient.
        entropy_T: [T] float32 nats, with gradient if there is an entropy coefficient.
        behavior_logprobs_T: [T] float32, as the generator reported them while sampling.
        old_logprobs_T: [T] float32, under the learner at the start of the batch. Used by a
            correction; None means that this is the batch's only optimiser step, so that they are
            ``logprobs_T`` themselves.
        reference_logprobs_T: [T] float32 under the reference model; needed with a KL coefficient.
        advantages_T: [T] float32 advantage of the completion the token belongs to.
        weights_T: [T] float32 >= 0, zero on prompt and padding.
        weight_sum: sum of the weights over the global minibatch: 1, unless the
            aggregation is "constant". Metrics are divided by it, to be means over tokens.
        sum_over_sequence: sums over each token's sequence.

    Returns:
        A scalar, and metrics. All are to be summed over rows and ranks, except those named
        ``*_max``, of which the largest counts. Whatever the ratios, the gradient is finite.
    """
    is_token_T, bound = weights_T > 0, objective.log_ratio_bound
    correction, correction_T, metrics = objective.correction, None, Metrics()
    anchor_logprobs_T, is_bounded_T = behavior_logprobs_T, torch.zeros_like(is_token_T)
    # Where every completion of a minibatch is masked, nothing weighs anything.
    share_T = weights_T / weight_sum if weight_sum else torch.zeros_like(weights_T)
    if correction is not None:
        anchor_logprobs_T = logprobs_T.detach() if old_logprobs_T is None else old_logprobs_T
        correction_T, ratio_T, is_bounded_T = correction_weights(
            correction,
            anchor_logprobs_T,
            behavior_logprobs_T,
            is_token_T,
            log_ratio_bound=bound,
            sum_over_sequence=sum_over_sequence,
        )
        metrics |= _correction_metrics(correction_T, ratio_T, share_T)
    terms = LOSSES[objective.loss](
        logprobs_T,
        anchor_logprobs_T,
        advantages_T,
        is_token_T,
        clip_low=objective.clip_low,
        clip_high=objective.clip_high,
        log_ratio_bound=bound,
        sum_over_sequence=sum_over_sequence,
    )
    term_T = terms.objective_T if correction_T is None else correction_T * terms.objective_T
    loss = -(weights_T * term_T).sum()
    if objective.kl_coefficient:
        assert reference_logprobs_T is not None, "the KL penalty needs a reference model"
        kl_log_ratio_T = masked_difference(reference_logprobs_T, logprobs_T, is_token_T)
        divergence_T = k3(kl_log_ratio_T, bound)
        is_bounded_T = is_bounded_T | (kl_log_ratio_T.detach() > bound)
        loss = loss + objective.kl_coefficient * (weights_T * divergence_T).sum()
        metrics["policy/reference_kl"] = (share_T * divergence_T.detach()).sum()
    if objective.entropy_coefficient:
        spread_T = entropy_T.where(is_token_T, 0.0)
        loss = loss - objective.entropy_coefficient * (weights_T * spread_T).sum()
    metrics |= _policy_metrics(
        terms, logprobs_T.detach(), anchor_logprobs_T, behavior_logprobs_T, share_T, bound
    )
    is_bounded_T = (is_bounded_T | terms.is_bounded_T) & is_token_T
    metrics["policy/bounded_tokens"] = is_bounded_T.to(share_T.dtype).sum()
    metrics["policy/entropy"] = (share_T * entropy_T.detach().where(is_token_T, 0.0)).sum()
    metrics["policy/loss"] = loss.detach()
    return loss, metrics


def k3(log_ratio_T: Tensor, log_ratio_bound: float) -> Tensor:
    """Estimate KL(policy || other) from log(other / policy) at each token the policy sampled.

    With the ratio r it is r - log r - 1 (arXiv:2402.03300), which is unbiased and never negative
    (http://joschu.net/blog/kl-approx.html). A ratio beyond the bound counts as the bound.
    """
    log_ratio_T = log_ratio_T.clamp(max=log_ratio_bound)
    return log_ratio_T.exp() - log_ratio_T - 1


def _policy_metrics(
    terms: TokenTerms,
    logprobs_T: Tensor,
    anchor_logprobs_T: Tensor,
    behavior_logprobs_T: Tensor,
    share_T: Tensor,
    log_ratio_bound: float,
) -> Metrics:
    is_token_T = share_T > 0
    moved_T = masked_difference(logprobs_T, anchor_logprobs_T, is_token_T)
    difference_T = masked_difference(logprobs_T, behavior_logprobs_T, is_token_T)
    return {
        "policy/clip_fraction": (share_T * terms.is_clipped_T).sum(),
        # KL(anchor || policy) over the anchor's samples, clipped tokens included.
        "policy/approx_kl": (share_T * k3(moved_T, log_ratio_bound)).sum(),
        "policy/logprob_difference": (share_T * difference_T.abs()).sum(),
        "policy/ratio_mean": (share_T * terms.ratio_T).sum(),
        "policy/ratio_max": largest(terms.ratio_T, is_token_T),
    }


def _correction_metrics(correction_T: Tensor, ratio_T: Tensor, share_T: Tensor) -> Metrics:
    return {
        "correction/weight_mean": (share_T * correction_T).sum(),
        "correction/changed_fraction": (share_T * (correction_T != ratio_T)).sum(),
        "correction/ratio_max": largest(ratio_T, share_T > 0),
    }


def largest(values_T: Tensor, is_token_T: Tensor) -> Tensor:
    """Return the largest of values >= 0 at tokens; 0 in a row without any."""
    return torch.where(is_token_T, values_T, 0.0).max()
