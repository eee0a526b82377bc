"""Batches of math answers to check: a message costs more than reading most answers."""

import json
from collections.abc import Sequence

from megatron_rl.types import Problem, Verdict

BATCH_KIND = "answers to check"
"""Kind of a problem that stands for several, whose answers are its field ``answers``."""

_ANSWERS_AT_A_TIME = 32


def batched_answers(problems: Sequence[Problem]) -> list[tuple[list[int], Problem]]:
    """Return what to ask a checker, each with the places of the problems that it stands for."""
    math = [place for place, problem in enumerate(problems) if problem.kind == "math"]
    others = [
        ([place], problem) for place, problem in enumerate(problems) if problem.kind != "math"
    ]
    pieces = [
        math[first : first + _ANSWERS_AT_A_TIME]
        for first in range(0, len(math), _ANSWERS_AT_A_TIME)
    ]
    return others + [(piece, _batch([problems[place] for place in piece])) for piece in pieces]


def check_batch(problem: Problem) -> Verdict:
    """Return the faults of the answers of a batch, as the reason of a verdict."""
    from megatron_rl.math_answers import find_gold_fault

    faults = [find_gold_fault(answer) for answer in problem.extra["answers"]]
    return Verdict(format_ok=True, correct=not any(faults), reason=json.dumps(faults))


def read_faults(verdict: Verdict, num: int) -> list[str | None]:
    """Return the faults that a checker found in ``num`` problems."""
    if verdict.correct:
        return [None] * num
    if not verdict.reason.startswith("["):
        return [f"its answer {verdict.reason}"]
    return [
        None if fault is None else f"its answer {fault}" for fault in json.loads(verdict.reason)
    ]


def _batch(problems: Sequence[Problem]) -> Problem:
    answers = [problem.answer for problem in problems]
    return Problem(id="batch", text="", answer="", kind=BATCH_KIND, extra={"answers": answers})
