r"""Forms in which a response to a math problem may state its final answer.

A problem's field ``answer_format`` names one or several:

* ``boxed``: ``\boxed{34}``; without the field it is this.
* ``answer_line``: a line "Answer: 34", or "Answer:" and the next line, as DAPO's problems ask.
* ``hashes``: a line "#### 34", as GSM8K's problems ask.

The statement that stands last counts, whichever form it has.
"""

import re
from dataclasses import dataclass

from megatron_rl.errors import VerifierError
from megatron_rl.math_answers.text.normalize import strip_blanks
from megatron_rl.types import Problem
from megatron_rl.verifiers.boxes import find_last_box, scan_boxes

FORMATS = ("boxed", "answer_line", "hashes")
_FIELD = "answer_format"
_LINES = {
    # The answer may be the next line that is not blank: one asks for "its own line".
    "answer_line": re.compile(
        r"^[ \t>*_#]*(?:the[ \t]+)?(?:final[ \t]+)?answer[*_ \t]*:[*_]*\s*"
        r"(?:(?:\$\$|\\\[)[ \t]*\n\s*)?(?P<answer>\S.*)$",
        re.IGNORECASE | re.MULTILINE,
    ),
    "hashes": re.compile(r"^[ \t]*####[ \t]*(?P<answer>[^\s#].*)$", re.MULTILINE),
}
_SHOWN = {
    "boxed": r"\boxed{}",
    "answer_line": 'line "Answer: ..."',
    "hashes": 'line "#### ..."',
}
_UNFINISHED = r"has an unfinished last \boxed{} after the thoughts"


@dataclass(frozen=True, kw_only=True, slots=True)
class StatedAnswer:
    """What a response states as its final answer."""

    start: int
    """Where the statement begins in the text."""
    answer: str | None
    """None where the text ends within the statement."""


def find_setting_fault(problem: Problem) -> str | None:
    """Return what is wrong with the forms that a problem names, None if nothing is."""
    if _FIELD not in problem.extra:
        return None
    named = problem.extra[_FIELD]
    formats = [named] if isinstance(named, str) else named
    if isinstance(formats, list | tuple) and formats and all(name in FORMATS for name in formats):
        return None
    return f"its {_FIELD} ({named!r}) must be one or a list of {', '.join(FORMATS)}"


def formats_of(problem: Problem) -> tuple[str, ...]:
    """Return the forms in which the answer to a problem is taken.

    Raises:
        VerifierError: it names others.
    """
    fault = find_setting_fault(problem)
    if fault is not None:
        raise VerifierError(f"problem {problem.id}: {fault}")
    named = problem.extra[_FIELD] if _FIELD in problem.extra else "boxed"
    return (named,) if isinstance(named, str) else tuple(named)


def find_stated_answer(text: str, formats: tuple[str, ...]) -> StatedAnswer | None:
    """Return the last statement of an answer in one of these forms, None if there is none."""
    found = [statement for name in formats if (statement := _find_last(text, name)) is not None]
    return max(found, key=lambda statement: statement.start, default=None)


def find_answer_fault(text: str, formats: tuple[str, ...]) -> str | None:
    """Return why the part after the thoughts states no answer, None if it does."""
    stated = find_stated_answer(text, formats)
    if stated is None:
        return f"has no {shown(formats)} after the thoughts"
    return None if stated.answer is not None else _UNFINISHED


def shown(formats: tuple[str, ...]) -> str:
    """Return the forms as people read them."""
    return " or ".join(_SHOWN[name] for name in formats)


def _find_last(text: str, name: str) -> StatedAnswer | None:
    if name == "boxed":
        return _find_box(text)
    last = None
    for match in _LINES[name].finditer(text):
        last = match
    return None if last is None else StatedAnswer(start=last.start(), answer=_plain(last["answer"]))


def _find_box(text: str) -> StatedAnswer | None:
    last, is_finished = scan_boxes(text)
    if not is_finished:
        # Nothing stands behind what a text ends in.
        return StatedAnswer(start=len(text), answer=None)
    if last is None:
        return None
    return StatedAnswer(start=last[0], answer=strip_blanks(text[slice(*last)]))


def _plain(text: str) -> str | None:
    """Return an answer without emphasis, and out of its box."""
    box = find_last_box(text)
    return box if box else text.strip().strip("*_`").strip()
