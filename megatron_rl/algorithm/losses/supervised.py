"""Supervised loss: negative log-likelihood of the response tokens.

Shape letters: T = tokens of one packed row.
"""

from torch import Tensor


def negative_log_likelihood(logprobs_T: Tensor, weights_T: Tensor) -> Tensor:
    """Return minus the weighted sum of the response tokens' log-probabilities.

    Args:
        logprobs_T: [T] float32, with the gradient.
        weights_T: [T] float32 >= 0, zero on prompt and padding, summing to 1 over the minibatch.
    """
    return -(weights_T * logprobs_T.where(weights_T > 0, 0.0)).sum()
