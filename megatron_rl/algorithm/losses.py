"""Losses as weighted sums. Pure functions: tensors in, a scalar and metrics out.

Summing the results over rows and ranks gives the minibatch's value; no denominator is needed.

Shape letters: T = tokens of one packed row.
"""

import torch
from torch import Tensor


def clipped_policy_loss(
    logprobs_T: Tensor,
    behavior_logprobs_T: Tensor,
    advantages_T: Tensor,
    weights_T: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clip-higher surrogate (arXiv:2503.14476) without a KL term (arXiv:2506.10910, eq. 1).

    Args:
        logprobs_T: [T] float32 log-probability of each token under the learner; has the gradient.
        behavior_logprobs_T: [T] float32 log-probability the generator reported while sampling.
        advantages_T: [T] float32 advantage of the completion the token belongs to.
        weights_T: [T] float32 >= 0, zero on prompt and padding, summing to 1 over the global
            minibatch.
        clip_low: ratio floor is 1 - clip_low.
        clip_high: ratio ceiling is 1 + clip_high.

    Returns:
        The weighted sum over T (a scalar), and metrics to be summed the same way.
    """
    # Padding may hold garbage; neutralise it before exp(), because 0 * inf is nan.
    log_ratio_T = (logprobs_T - behavior_logprobs_T).where(weights_T > 0, 0.0)
    ratio_T = log_ratio_T.exp()
    clipped_T = ratio_T.clamp(1 - clip_low, 1 + clip_high)
    surrogate_T = torch.minimum(ratio_T * advantages_T, clipped_T * advantages_T)
    loss = -(weights_T * surrogate_T).sum()
    with torch.no_grad():
        metrics = {
            "policy/clip_fraction": (weights_T * (ratio_T != clipped_T)).sum(),
            "policy/approx_kl": (weights_T * (ratio_T - 1 - log_ratio_T)).sum(),
            "policy/logprob_difference": (weights_T * log_ratio_T.abs()).sum(),
        }
    return loss, metrics


def negative_log_likelihood(logprobs_T: Tensor, weights_T: Tensor) -> Tensor:
    """Supervised loss: minus the weighted sum of the response tokens' log-probabilities.

    Args:
        logprobs_T: [T] float32, with the gradient.
        weights_T: [T] float32 >= 0, zero on prompt and padding, summing to 1 over the minibatch.
    """
    return -(weights_T * logprobs_T.where(weights_T > 0, 0.0)).sum()
