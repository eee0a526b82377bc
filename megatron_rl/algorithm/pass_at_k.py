"""Pass@k without bias, and majority vote: scores of repeated sampling. Pure."""

from collections import Counter
from collections.abc import Sequence


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


def majority_is_correct(answers: Sequence[str | None], correct: Sequence[bool]) -> float:
    """Score the most frequent extracted answer of one problem.

    Args:
        answers: [n] extracted answer of each sample; None when there was none, which never votes.
        correct: [n] verdict on each sample.

    Returns:
        The share of right samples among those that gave a most frequent answer, which is 0 or 1
        unless answers tie (a tie is broken at random, this is its expectation); 0 without answers.
    """
    assert len(answers) == len(correct), (len(answers), len(correct))
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [
        verdict
        for answer, verdict in zip(answers, correct, strict=True)
        if answer is not None and votes[answer] == most
    ]
    return sum(winners) / len(winners)
