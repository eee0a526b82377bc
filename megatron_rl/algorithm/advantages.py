"""Advantages and token weights, from the rewards of groups. Pure numpy.

Shape letters: N = sequences of one minibatch.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

_TINY = 1e-8


def group_advantages(
    rewards_N: NDArray[np.floating],
    groups_N: NDArray[np.integer],
    *,
    scale: Literal["minibatch", "group", "none"],
) -> NDArray[np.float32]:
    """Centre rewards by group, then divide by a standard deviation (arXiv:2506.10910, eq. 2).

    Args:
        rewards_N: [N] full rewards of one minibatch.
        groups_N: [N] which group each sequence belongs to.
        scale: "minibatch" centres and divides by the deviation over all sequences (the paper),
            "group" divides by the deviation of the sequence's own group (GRPO, arXiv:2402.03300),
            "none" leaves the centred reward (Dr. GRPO, arXiv:2503.20783).

    Returns:
        [N] float32. Deviations are over sequences, not tokens; a deviation of 0 gives zeros.
    """
    rewards = np.asarray(rewards_N, dtype=np.float64)
    _, members_N = np.unique(groups_N, return_inverse=True)
    counts = np.bincount(members_N)
    centred = rewards - (np.bincount(members_N, weights=rewards) / counts)[members_N]
    if scale == "minibatch":
        centred = (centred - centred.mean()) / max(centred.std(), _TINY)
    elif scale == "group":
        variance = np.bincount(members_N, weights=centred**2) / counts
        centred = centred / np.maximum(np.sqrt(variance), _TINY)[members_N]
    return centred.astype(np.float32)


def token_weights(
    lengths_N: NDArray[np.integer],
    groups_N: NDArray[np.integer],
    masked_N: NDArray[np.bool_],
    *,
    aggregation: Literal["group", "token", "sequence", "constant"],
    max_tokens: int,
) -> NDArray[np.float32]:
    """Weight of every completion token of each sequence, so that the loss is a weighted sum.

    Args:
        lengths_N: [N] completion tokens of each sequence of one minibatch.
        groups_N: [N] which group each sequence belongs to.
        masked_N: [N] which sequences stay out of the loss: they weigh 0 and count in no
            denominator.
        aggregation: "group" is the mean over groups of the mean over a group's tokens
            (arXiv:2506.10910), "token" the mean over all tokens (DAPO, arXiv:2503.14476),
            "sequence" the mean over sequences of the mean over their tokens (GRPO), "constant"
            the mean over sequences of the sum over tokens divided by ``max_tokens`` (Dr. GRPO,
            arXiv:2503.20783).
        max_tokens: longest completion that can be sampled.

    Returns:
        [N] float32; the sum over sequences of weight times length is 1, except with "constant",
        where it is the mean length over ``max_tokens``. All 0 if every sequence is masked.
    """
    kept_N = ~np.asarray(masked_N, dtype=np.bool_)
    weights_N = np.zeros(len(kept_N), dtype=np.float32)
    if kept_N.any():
        weights_N[kept_N] = _weights_of_all(
            np.asarray(lengths_N, dtype=np.float64)[kept_N],
            np.asarray(groups_N)[kept_N],
            aggregation=aggregation,
            max_tokens=max_tokens,
        )
    return weights_N


def _weights_of_all(
    lengths: NDArray[np.float64],
    groups_N: NDArray[np.integer],
    *,
    aggregation: Literal["group", "token", "sequence", "constant"],
    max_tokens: int,
) -> NDArray[np.float64]:
    if aggregation == "token":
        return np.full(len(lengths), 1 / lengths.sum())
    if aggregation == "sequence":
        return 1 / (len(lengths) * lengths)
    if aggregation == "constant":
        return np.full(len(lengths), 1 / (len(lengths) * max_tokens))
    groups, members_N = np.unique(groups_N, return_inverse=True)
    tokens = np.bincount(members_N, weights=lengths)
    weights: NDArray[np.float64] = 1 / (len(groups) * tokens[members_N])
    return weights
