import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_rl.algorithm.pass_at_k import majority_is_correct, pass_at_k


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


@pytest.mark.parametrize(
    ("answers", "correct", "expected"),
    [
        (["2", "2", "3"], [True, True, False], 1.0),
        (["3", "3", "2"], [False, False, True], 0.0),
        (["2", "3"], [True, False], 0.5),  # a tie, broken at random
        ([None, None, "2"], [False, False, True], 1.0),  # no answer is no vote
        ([None, None], [False, False], 0.0),
    ],
)
def test_the_most_frequent_answer_decides(answers, correct, expected):
    assert majority_is_correct(answers, correct) == expected
