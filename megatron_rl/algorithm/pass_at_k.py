"""Pass@k without bias, and majority vote: scores of repeated sampling. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import stdev

import numpy as np


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Estimate without bias the chance that one of k samples is right (arXiv:2107.03374, eq. 1).

    Args:
        num_samples: completions drawn for the problem, n >= k.
        num_correct: how many of them are right, c.
        k: size of the subset.

    Returns:
        1 - C(n - c, k) / C(n, k).
    """
    assert 0 <= num_correct <= num_samples and 1 <= k <= num_samples, (num_samples, num_correct, k)
    all_wrong = 1.0
    # The product form of the ratio of binomials, which never leaves [0, 1].
    for drawn in range(k):
        all_wrong *= max(0, num_samples - num_correct - drawn) / (num_samples - drawn)
    return 1 - all_wrong


@dataclass(frozen=True, kw_only=True, slots=True)
class Votes:
    """Votes of the samples of one problem: how often each answer was given."""

    right: int
    """Samples with the right answer, however it is written."""
    wrong: tuple[int, ...]
    """Samples with each of the wrong answers."""
    silent: int
    """Samples without an answer, which never vote."""

    @property
    def total(self) -> int:
        """Number of samples."""
        return self.right + sum(self.wrong) + self.silent


def majority_at_k(votes: Votes, k: int) -> float:
    """Return the chance that the most frequent answer of k of the samples is the right one.

    The k samples are drawn without replacement, and a tie is broken at random: the mean over all
    subsets of k samples of 1 / (number of most frequent answers) where the right one is among them.

    Args:
        votes: of n >= k samples.
        k: size of the subset.
    """
    num_samples = votes.total
    assert 1 <= k <= num_samples, (votes, k)
    if k == num_samples:
        most = max((votes.right, *votes.wrong))
        return 1 / (1 + votes.wrong.count(most)) if votes.right == most > 0 else 0.0
    # Binomial draws of every answer, given that they add up to k, are draws without replacement;
    # unlike binomial coefficients, their probabilities never overflow.
    share = k / num_samples
    chance = sum(
        _binomial(votes.right, most, share) * _share_of_win(votes, k, most, share)
        for most in range(1, min(votes.right, k) + 1)
    )
    return float(chance / _binomial(num_samples, k, share))


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean over problems, None for a single one."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def powers_up_to(limit: int) -> list[int]:
    """Return 1, 2, 4 and so on up to ``limit``, and ``limit`` itself."""
    return sorted({2**power for power in range(limit.bit_length())} | {limit})


def _share_of_win(votes: Votes, k: int, most: int, share: float) -> float:
    """Return the chance that k - most other samples leave the right answer on top, ties shared.

    The right answer was drawn ``most`` times; wrong ones may be drawn as often, each a tie.
    """
    left = k - most
    # Answers that are given too rarely to tie matter only by their number.
    harmless = votes.silent + sum(count for count in votes.wrong if count < most)
    ways_TJ = np.zeros((left // most + 1, left + 1))  # T = ties, J = samples drawn
    ways_TJ[0] = [_binomial(harmless, drawn, share) for drawn in range(left + 1)]
    for count in votes.wrong:
        if count < most:
            continue
        before_TJ, ways_TJ = ways_TJ, np.zeros_like(ways_TJ)
        for drawn in range(min(most, left + 1)):
            chance = _binomial(count, drawn, share)
            ways_TJ[:, drawn:] += chance * before_TJ[:, : left + 1 - drawn]
        if most <= left:
            chance = _binomial(count, most, share)
            ways_TJ[1:, most:] += chance * before_TJ[:-1, : left + 1 - most]
    return float((ways_TJ[:, left] / np.arange(1, len(ways_TJ) + 1)).sum())


def _binomial(num: int, drawn: int, share: float) -> float:
    """Return the chance that each of ``num``, drawn with chance ``share``, makes ``drawn``."""
    if drawn > num:
        return 0.0
    ways = math.lgamma(num + 1) - math.lgamma(drawn + 1) - math.lgamma(num - drawn + 1)
    return math.exp(ways + drawn * math.log(share) + (num - drawn) * math.log1p(-share))
