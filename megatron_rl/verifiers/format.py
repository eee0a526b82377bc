"""Format of the answer to each kind of problem, and of the response that a user's verifier gets.

Example of a well-formed response to a math problem, whatever the tags of its model are::

    <think>Two and two make four.</think>The sum is \\boxed{4}.
"""

import re
from collections.abc import Callable

from megatron_rl.math_answers.text.normalize import strip_blanks
from megatron_rl.types import Response
from megatron_rl.verifiers.code import find_first_code

OPEN_TAG = "<think>"
CLOSE_TAG = "</think>"

# Any number of backslashes may precede "boxed": models double them, and a line break may stick to
# them. Other escaped characters are skipped, so that \{ and \} do not count as braces.
# Only the start of a run of backslashes may begin a box, or long runs would cost quadratic time.
_BRACE = re.compile(r"(?P<box>(?<!\\)\\+boxed\s*\{)|\\.|(?P<open>\{)|(?P<close>\})", re.DOTALL)
# A text that ends within the command, or before its brace, was cut off.
_CUT_COMMAND = re.compile(r"(?<!\\)\\+b(?:o(?:x(?:ed?)?)?)?\s*\Z")


def text_for_verifier(response: Response, *, kind: str) -> str:
    """Return what the verifier of a kind gets: the answer, or a user's verifier the response.

    The response is ``<think>THOUGHTS</think>ANSWER`` in these tags, whatever those of the model
    are; without thoughts it is the answer.
    """
    if kind in _ANSWER_RULES or response.thoughts is None:
        return response.answer
    return f"{OPEN_TAG}{response.thoughts}{CLOSE_TAG}{response.answer}"


def find_format_fault(response: Response, *, kind: str) -> str | None:
    """Return why a response breaks the format of problems of this kind, or None if it does not."""
    if response.fault is not None:
        return response.fault
    if kind in _ANSWER_RULES:
        return _ANSWER_RULES[kind](response.answer.strip())
    # A user's verifier checks the answer, but could not tell tags in the text from ours.
    inside = "" if response.thoughts is None else response.thoughts + response.answer
    for tag in (OPEN_TAG, CLOSE_TAG):
        if response.thoughts is not None and tag in inside:
            return f"has the text {tag} in its thoughts or its answer"
    return None


def find_last_box(text: str) -> str | None:
    r"""Return the contents of the last ``\boxed{...}``; None if there is none, or it is unfinished.

    Takes time linear in the text, however many braces are left open.
    """
    last, is_finished = _scan_boxes(text)
    return None if last is None or not is_finished else strip_blanks(text[slice(*last)])


def _scan_boxes(text: str) -> tuple[tuple[int, int] | None, bool]:
    """Return where the last complete box has its contents, and that no later one is unfinished."""
    open_braces: list[tuple[int, bool]] = []
    last: tuple[int, int] | None = None
    for match in _BRACE.finditer(text):
        if match["box"] or match["open"]:
            open_braces.append((match.end(), bool(match["box"])))
        elif match["close"] and open_braces:
            start, is_box = open_braces.pop()
            if is_box and (last is None or start > last[0]):
                last = start, match.start()
    newest_open = max((start for start, is_box in open_braces if is_box), default=-1)
    is_cut = newest_open > (-1 if last is None else last[0]) or bool(_CUT_COMMAND.search(text))
    return last, not is_cut


def _find_math_fault(answer: str) -> str | None:
    last, is_finished = _scan_boxes(answer)
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
