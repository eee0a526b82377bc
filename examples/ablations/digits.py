"""A verifier that measures how much of a sum is right: the share of its digits."""

import dataclasses

from megatron_rl.types import Problem, Verdict
from megatron_rl.verifiers.math import verify_math


def verify(problem: Problem, text: str) -> Verdict:
    """Judge a sum as a math answer, and score the digits that stand where they should."""
    verdict = verify_math(problem, text.rpartition("</think>")[2])
    if verdict.answer is None:
        return verdict
    share = 1.0 if verdict.correct else share_of_digits(verdict.answer, problem.answer)
    return dataclasses.replace(verdict, score=share)


def share_of_digits(answer: str, expected: str) -> float:
    """Return the share of digits, from the ones, that are equal; a missing one is wrong.

    Example: of 132, 122 has two right: 2/3.
    """
    length = max(len(answer), len(expected))
    pairs = zip(answer.rjust(length), expected.rjust(length), strict=True)
    return sum(a == b for a, b in pairs) / length
