"""Weight space of a run: principal directions of its checkpoints, grids, the law of length.

Magistral, section 7.1 (arXiv:2506.10910): the checkpoints of a run, one row each of a T x W matrix,
vary mostly along two directions, one of which makes completions longer; the reward without its
length penalty grows with the logarithm of the length.

Shape letters: T = checkpoints, W = weights, N = points. Pure; float64 throughout.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_NOISE = 1e-12
"""Share of the largest eigenvalue below which an eigenvalue is rounding error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Directions:
    """Two orthogonal directions of unit norm, as mixtures of checkpoints.

    With w_t the weights of checkpoint t and w* those of the last, direction k is
    ``c_k = sum_t mixtures_2T[k, t] * (w_t - w*)``.
    """

    mixtures_2T: NDArray[np.float64]
    positions_T2: NDArray[np.float64]
    """Projected checkpoints: <w_t - w*, c_k>; the last checkpoint is at the origin."""
    shares_2: NDArray[np.float64]
    """Part of the variance of the checkpoints that lies along each."""


def principal_directions(gram_TT: NDArray[np.float64]) -> Directions:
    """Return the two directions along which checkpoints vary most.

    The principal components of the centred T x W matrix X come from its T x T Gram matrix: X X^T u
    = l u gives the direction X^T u / sqrt(l), so that nothing of size W x W is ever made.

    Args:
        gram_TT: <w_s - w*, w_t - w*> for all pairs of checkpoints.

    Raises:
        ValueError: the checkpoints do not span two directions.
    """
    num = len(gram_TT)
    centring_TT = np.eye(num) - 1 / num
    values_T, vectors_TT = np.linalg.eigh(centring_TT @ gram_TT @ centring_TT)
    values_2, vectors_2T = values_T[::-1][:2], vectors_TT.T[::-1][:2]
    if num < 3 or values_2[1] <= _NOISE * values_2[0] or values_2[0] <= 0:
        raise ValueError("the checkpoints do not span two directions; at least three must differ")
    mixtures_2T = vectors_2T / np.sqrt(values_2)[:, None]
    positions_T2 = gram_TT @ mixtures_2T.T
    # An eigenvector's sign is arbitrary: the run moves towards larger coordinates.
    signs_2 = np.where(positions_T2[0] > 0, -1.0, 1.0)
    return Directions(
        mixtures_2T=mixtures_2T * signs_2[:, None],
        positions_T2=positions_T2 * signs_2,
        shares_2=values_2 / values_T.sum(),
    )


def grid_around(
    positions_T2: NDArray[np.float64], *, size: int, margin: float
) -> list[tuple[float, float]]:
    """Return the origin and ``size`` x ``size`` points that cover a trajectory and its margin.

    Args:
        positions_T2: the trajectory.
        size: points along each direction, at least 2.
        margin: margin of the grid around the trajectory, as part of the trajectory's extent.
    """
    low_2, high_2 = positions_T2.min(axis=0), positions_T2.max(axis=0)
    reach_2 = margin * (high_2 - low_2)
    first, second = (
        np.linspace(low, high, size).tolist()
        for low, high in zip(low_2 - reach_2, high_2 + reach_2, strict=True)
    )
    return [(0.0, 0.0), *((x, y) for x in first for y in second)]


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthLaw:
    """``reward = slope * log(length) + offset``, fitted by least squares."""

    slope: float
    offset: float
    r_squared: float
    """Part of the variance of the rewards that the law explains."""


def fit_length_law(
    lengths_N: NDArray[np.float64], rewards_N: NDArray[np.float64]
) -> LengthLaw | None:
    """Fit mean rewards without length penalty to mean lengths in tokens; None without a spread."""
    logs_N = np.log(lengths_N)
    if len(logs_N) < 3 or math.isclose(np.ptp(logs_N), 0.0) or math.isclose(np.ptp(rewards_N), 0.0):
        return None
    slope, offset = np.polyfit(logs_N, rewards_N, deg=1)
    rest_N = rewards_N - (slope * logs_N + offset)
    return LengthLaw(
        slope=float(slope),
        offset=float(offset),
        r_squared=float(1 - rest_N.var() / rewards_N.var()),
    )
