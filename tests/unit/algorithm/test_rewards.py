"""The reward's parts, with the check values of the recipe."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_rl.algorithm.rewards import compute_reward
from megatron_rl.types import Verdict

RULES = {
    "max_tokens": 20,
    "length_cache": 4,
    "format_reward": 0.1,
    "correctness_reward": 0.9,
    "length_penalty": 0.1,
    "language_reward": 0.0,
    "is_proportional": False,
    "is_truncated": False,
    "truncated": "grade",
}
RIGHT = Verdict(format_ok=True, correct=True)
WRONG = Verdict(format_ok=True, correct=False)
BROKEN = Verdict(format_ok=False, correct=False)


@pytest.mark.parametrize(
    ("num_tokens", "expected"),
    [
        (1, 0.0),
        (16, 0.0),  # 16 <= 20 - 4: free
        (17, -0.025),  # -0.1 * (17 - 20 + 4) / 4
        (18, -0.05),  # -0.1 * 2 / 4
        (20, -0.1),  # -0.1 * 4 / 4
        (21, -0.1),  # beyond the maximum the whole penalty, not more
        (1000, -0.1),
    ],
)
def test_length_is_punished_linearly_over_the_cache(num_tokens, expected):
    reward = compute_reward(RIGHT, num_tokens=num_tokens, **RULES)
    assert reward.parts["length"] == pytest.approx(expected)
    assert reward.total == pytest.approx(0.1 + 0.9 + expected)


def test_a_wrong_answer_keeps_its_format_and_length_parts():
    reward = compute_reward(WRONG, num_tokens=18, **RULES)
    assert reward.parts == pytest.approx({"format": 0.1, "correctness": 0.0, "length": -0.05})


def test_a_broken_format_earns_nothing_whatever_the_length():
    for num_tokens in (1, 18, 1000):
        reward = compute_reward(BROKEN, num_tokens=num_tokens, **RULES)
        assert reward.parts == {"format": 0.0, "correctness": 0.0, "length": 0.0}


@pytest.mark.parametrize(("language_ok", "expected"), [(True, 0.1), (False, 0.0), (None, 0.0)])
def test_one_language_throughout_earns_its_part(language_ok, expected):
    verdict = Verdict(format_ok=True, correct=True, language_ok=language_ok)
    reward = compute_reward(verdict, num_tokens=1, **{**RULES, "language_reward": 0.1})
    assert reward.parts["language"] == expected
    assert reward.total == pytest.approx(1.0 + expected)  # at most 1.1


def test_a_broken_format_earns_nothing_for_its_language():
    verdict = Verdict(format_ok=False, correct=False, language_ok=True)
    reward = compute_reward(verdict, num_tokens=1, **{**RULES, "language_reward": 0.1})
    assert set(reward.parts.values()) == {0.0} and "language" in reward.parts


@pytest.mark.parametrize(
    ("score", "is_proportional", "expected"),
    [
        (0.75, True, 0.675),  # 0.9 * 3 / 4 of the tests
        (0.75, False, 0.0),  # all or nothing
        (None, True, 0.0),  # nobody measured it: right or wrong
    ],
)
def test_a_score_pays_in_proportion_only_on_request(score, is_proportional, expected):
    verdict = Verdict(format_ok=True, correct=False, score=score)
    rules = {**RULES, "is_proportional": is_proportional}
    reward = compute_reward(verdict, num_tokens=1, **rules)
    assert reward.parts["correctness"] == pytest.approx(expected)


def test_an_unpunished_length_is_plain_zero():
    length = compute_reward(RIGHT, num_tokens=3, **RULES).parts["length"]
    assert str(length) == "0.0"


@given(st.integers(0, 60), st.integers(1, 40), st.integers(1, 40))
def test_a_longer_completion_never_earns_more(num_tokens, max_tokens, length_cache):
    rules = {**RULES, "max_tokens": max_tokens, "length_cache": length_cache}
    shorter = compute_reward(RIGHT, num_tokens=num_tokens, **rules).total
    longer = compute_reward(RIGHT, num_tokens=num_tokens + 1, **rules).total
    assert longer <= shorter
    assert 0.9 - 1e-9 <= longer <= 1.0


@pytest.mark.parametrize(
    ("truncated", "is_truncated", "total", "is_masked"),
    [
        ("grade", True, 0.9, False),  # 0.1 + 0.9 - 0.1
        ("zero", True, 0.0, False),
        ("mask", True, 0.9, True),
        ("zero", False, 0.9, False),  # as long, but it came to an end
        ("mask", False, 0.9, False),
    ],
)
def test_a_truncated_completion_is_graded_or_unpaid_or_masked(
    truncated, is_truncated, total, is_masked
):
    rules = {**RULES, "truncated": truncated, "is_truncated": is_truncated}
    reward = compute_reward(RIGHT, num_tokens=20, **rules)
    assert reward.total == pytest.approx(total)
    assert reward.is_masked == is_masked
    assert reward.parts.keys() == {"format", "correctness", "length"}
    broken = compute_reward(BROKEN, num_tokens=20, **rules)
    assert (broken.total, broken.is_masked) == (0.0, is_masked)
