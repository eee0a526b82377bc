"""Votes of the samples of a problem: answers that the verifier takes for the same are one."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from megatron_rl.algorithm.pass_at_k import Votes
from megatron_rl.errors import VerifierError
from megatron_rl.types import Problem, Response, Verdict

_LOG = logging.getLogger(__name__)

JudgeFn = Callable[[Problem, Response], Awaitable[Verdict]]


async def count_votes(problem: Problem, verdicts: Sequence[Verdict], judge: JudgeFn) -> Votes:
    """Count how often each answer to a problem was given.

    All right answers are one. Wrong ones are told apart by their text and, where it is math and the
    right one might win or lose by it, by the verifier: 1/2 and 0.5 are one answer.

    Args:
        problem: what was asked.
        verdicts: of its samples.
        judge: as in training; compares two answers, one of them as if it were the right one.
    """
    right = sum(verdict.correct and verdict.answer is not None for verdict in verdicts)
    given = Counter(
        verdict.answer for verdict in verdicts if verdict.answer is not None and not verdict.correct
    )
    merged: Counter[str] = Counter()
    # Ties are sorted by text, so that votes do not depend on the order of completion.
    for text in sorted(given, key=lambda text: (-given[text], text)):
        # Without a right answer none of them can win, and telling them apart costs time.
        known = await _known_as(problem, text, list(merged), judge) if right else None
        merged[text if known is None else known] += given[text]
    return Votes(
        right=right,
        wrong=tuple(sorted(merged.values(), reverse=True)),
        silent=len(verdicts) - right - given.total(),
    )


async def _known_as(
    problem: Problem, text: str, known: Sequence[str], judge: JudgeFn
) -> str | None:
    """Return the known answer that is the same in other words, if any."""
    if problem.kind != "math":
        return None
    same = await asyncio.gather(*(_is_same(problem, text, other, judge) for other in known))
    return next((other for other, is_same in zip(known, same, strict=True) if is_same), None)


async def _is_same(problem: Problem, text: str, other: str, judge: JudgeFn) -> bool:
    """Ask the verifier whether two answers are one."""
    asked = Problem(id=f"{problem.id} (vote)", text="", answer=other)
    response = Response(thoughts=None, answer=f"\\boxed{{{text}}}", fault=None)
    try:
        return (await judge(asked, response)).correct
    except VerifierError as error:
        _LOG.error('two answers to problem "%s" count as different: %s', problem.id, error)
        return False
