"""Format of a response: one pair of think tags at its start, then an answer.

Example of a well-formed response to a math problem::

    <think>Two and two make four.</think>The sum is \\boxed{4}.
"""

from collections.abc import Callable

from megatron_rl.verifiers.answer_formats import find_answer_fault
from megatron_rl.verifiers.boxes import find_last_box, scan_boxes
from megatron_rl.verifiers.code import find_first_code

__all__ = ["find_format_fault", "find_last_box", "split_response"]

OPEN_TAG = "<think>"
CLOSE_TAG = "</think>"


def find_format_fault(
    text: str, *, kind: str, answer_formats: tuple[str, ...] = ("boxed",)
) -> str | None:
    """Return why ``text`` breaks the format of problems of this kind, or None if it does not.

    ``answer_formats`` are the forms in which a math answer is taken.

    Leading whitespace is a fault: the response *starts* with the tag (arXiv:2506.10910, 2.2).
    """
    if not text.startswith(OPEN_TAG):
        return f"does not start with {OPEN_TAG}"
    for tag in (OPEN_TAG, CLOSE_TAG):
        if (count := text.count(tag)) != 1:
            return f"has {count} {tag} tags instead of 1"
    _, answer = split_response(text)
    if kind == "math" and answer_formats != ("boxed",):
        return find_answer_fault(answer, answer_formats)
    # For a kind with a user's verifier, that verifier checks the answer part.
    return _ANSWER_RULES[kind](answer) if kind in _ANSWER_RULES else None


def split_response(text: str) -> tuple[str, str]:
    """Split a response with one pair of tags into (thoughts, answer), both stripped."""
    thoughts, close, answer = text.removeprefix(OPEN_TAG).partition(CLOSE_TAG)
    assert close, f"no {CLOSE_TAG} in a response that passed the format check: {text[:80]!r}"
    return thoughts.strip(), answer.strip()


def _find_math_fault(answer: str) -> str | None:
    last, is_finished = scan_boxes(answer)
    if not is_finished:
        return r"has an unfinished last \boxed{} after the thoughts"
    return None if last is not None else r"has no \boxed{} after the thoughts"


def _find_code_fault(answer: str) -> str | None:
    if find_first_code(answer) is not None:
        return None
    return "has no code block that names its language after the thoughts"


_ANSWER_RULES: dict[str, Callable[[str], str | None]] = {
    "math": _find_math_fault,
    "code": _find_code_fault,
}
