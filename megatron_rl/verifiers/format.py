"""Format of the answer to each kind of problem, and of the response that a user's verifier gets.

Example of a well-formed response to a math problem, whatever the tags of its model are::

    <think>Two and two make four.</think>The sum is \\boxed{4}.
"""

from collections.abc import Callable

from megatron_rl.types import Response
from megatron_rl.verifiers.answer_formats import find_answer_fault
from megatron_rl.verifiers.boxes import scan_boxes
from megatron_rl.verifiers.code import find_first_code

OPEN_TAG = "<think>"
CLOSE_TAG = "</think>"


def text_for_verifier(response: Response, *, kind: str) -> str:
    """Return what the verifier of a kind gets: the answer, or a user's verifier the response.

    The response is ``<think>THOUGHTS</think>ANSWER`` in these tags, whatever those of the model
    are; without thoughts it is the answer.
    """
    if kind in _ANSWER_RULES or response.thoughts is None:
        return response.answer
    return f"{OPEN_TAG}{response.thoughts}{CLOSE_TAG}{response.answer}"


def find_format_fault(
    response: Response, *, kind: str, answer_formats: tuple[str, ...] = ("boxed",)
) -> str | None:
    """Return why a response breaks the format of problems of this kind, or None if it does not.

    ``answer_formats`` are the forms in which a math answer is taken.
    """
    if response.fault is not None:
        return response.fault
    if kind == "math" and answer_formats != ("boxed",):
        return find_answer_fault(response.answer.strip(), answer_formats)
    if kind in _ANSWER_RULES:
        return _ANSWER_RULES[kind](response.answer.strip())
    # A user's verifier checks the answer, but could not tell tags in the text from ours.
    inside = "" if response.thoughts is None else response.thoughts + response.answer
    for tag in (OPEN_TAG, CLOSE_TAG):
        if response.thoughts is not None and tag in inside:
            return f"has the text {tag} in its thoughts or its answer"
    return None


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
