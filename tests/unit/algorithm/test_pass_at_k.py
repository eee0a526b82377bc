import itertools
import math
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from megatron_rl.algorithm.pass_at_k import (
    Votes,
    majority_at_k,
    pass_at_k,
    powers_up_to,
    standard_error,
)


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [
        (4, 1, 1, 1 / 4),
        (4, 1, 2, 1 / 2),  # 1 - C(3,2) / C(4,2) = 1 - 3/6
        (5, 2, 3, 0.9),  # 1 - C(3,3) / C(5,3) = 1 - 1/10
        (4, 0, 4, 0.0),
        (4, 3, 2, 1.0),  # no two wrong ones
    ],
)
def test_pass_at_k_is_one_minus_the_chance_of_only_wrong_samples(n, c, k, expected):
    assert pass_at_k(n, c, k) == pytest.approx(expected)


@given(n=st.integers(1, 7), data=st.data())
def test_pass_at_k_is_the_mean_over_all_subsets(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@given(n=st.integers(1, 40), data=st.data())
def test_pass_at_k_never_falls_with_more_samples(n, data):
    c = data.draw(st.integers(0, n))
    scores = [pass_at_k(n, c, k) for k in range(1, n + 1)]
    assert all(low <= high + 1e-12 for low, high in itertools.pairwise(scores))
    assert scores[0] == pytest.approx(c / n)


def votes_of(right: int, *wrong: int, silent: int = 0) -> Votes:
    return Votes(right=right, wrong=wrong, silent=silent)


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        (votes_of(2, 1), 1.0),
        (votes_of(1, 2), 0.0),
        (votes_of(1, 1), 0.5),  # a tie, broken at random
        (votes_of(2, 2, 2, 1), 1 / 3),
        (votes_of(1, silent=2), 1.0),  # no answer is no vote
        (votes_of(0, silent=2), 0.0),
        (votes_of(0, 3), 0.0),
    ],
)
def test_the_most_frequent_answer_decides(votes, expected):
    assert majority_at_k(votes, votes.total) == pytest.approx(expected)


def winning_share(answers: tuple[int, ...]) -> float:
    """Score one subset, with 0 for the right answer and negative numbers for silent samples."""
    counts = Counter(answer for answer in answers if answer >= 0)
    winners = [a for a, count in counts.items() if count == max(counts.values())]
    return winners.count(0) / len(winners) if winners else 0.0


all_votes = st.builds(
    Votes,
    right=st.integers(0, 4),
    wrong=st.lists(st.integers(1, 3), max_size=3).map(tuple),
    silent=st.integers(0, 2),
).filter(lambda votes: votes.total > 0)


@given(votes=all_votes, data=st.data())
def test_majority_at_k_is_the_mean_over_all_subsets(votes, data):
    k = data.draw(st.integers(1, votes.total))
    answers = [0] * votes.right + [-1] * votes.silent
    answers += [i for i, count in enumerate(votes.wrong, 1) for _ in range(count)]
    subsets = list(itertools.combinations(answers, k))
    expected = sum(map(winning_share, subsets)) / len(subsets)
    assert majority_at_k(votes, k) == pytest.approx(expected, abs=1e-12)


@given(votes=all_votes, data=st.data())
def test_the_order_of_the_wrong_answers_does_not_matter(votes, data):
    wrong = tuple(data.draw(st.permutations(votes.wrong)))
    other = Votes(right=votes.right, wrong=wrong, silent=votes.silent)
    for k in range(1, votes.total + 1):
        assert majority_at_k(other, k) == pytest.approx(majority_at_k(votes, k), abs=1e-12)


@given(votes=all_votes)
def test_a_vote_of_one_is_a_single_sample(votes):
    assert majority_at_k(votes, 1) == pytest.approx(votes.right / votes.total)


@given(right=st.integers(0, 30), wrong=st.integers(0, 30), data=st.data())
def test_a_vote_on_two_answers_is_a_sum_of_hypergeometric_chances(right, wrong, data):
    assume(right + wrong > 0)
    k = data.draw(st.integers(1, right + wrong))
    ways = [math.comb(right, i) * math.comb(wrong, k - i) for i in range(k + 1)]
    wins = sum(w for i, w in enumerate(ways) if 2 * i > k)
    ties = ways[k // 2] if k % 2 == 0 else 0
    expected = (wins + ties / 2) / math.comb(right + wrong, k)
    assert majority_at_k(votes_of(right, *([wrong] if wrong else [])), k) == pytest.approx(
        expected, abs=1e-10
    )


def test_many_samples_overflow_nothing():
    # 3,000 samples, of which half are right: C(3000, 1500) is no float.
    k, expected = 64, Fraction(0)
    for right, first in itertools.product(range(k + 1), repeat=2):
        second = k - right - first
        most = max(right, first, second)
        if second >= 0 and right == most:
            ways = math.comb(1500, right) * math.comb(1000, first) * math.comb(500, second)
            expected += Fraction(ways, [right, first, second].count(most))
    expected /= math.comb(3000, k)
    assert majority_at_k(votes_of(1500, 1000, 500), k) == pytest.approx(float(expected), abs=1e-9)


def test_scores_are_given_at_powers_of_two_and_at_all_samples():
    assert powers_up_to(1) == [1]
    assert powers_up_to(12) == [1, 2, 4, 8, 12]
    assert powers_up_to(64) == [1, 2, 4, 8, 16, 32, 64]


def test_the_standard_error_is_that_of_a_mean():
    # Deviations of 0, 1, 1, 0 from 1/2 are 1/2 each: variance 4 (1/4) / 3, over 4.
    assert standard_error([0.0, 1.0, 1.0, 0.0]) == pytest.approx(math.sqrt(1 / 12))
    assert standard_error([0.5]) is None
