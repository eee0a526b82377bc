"""Format of a response: one pair of think tags at its start, then an answer.

Example of a well-formed response to a math problem::

    <think>Two and two make four.</think>The sum is \\boxed{4}.
"""

import re
from collections.abc import Callable

from megatron_rl.math_answers.text.normalize import strip_blanks
from megatron_rl.verifiers.code import find_first_code

OPEN_TAG = "<think>"
CLOSE_TAG = "</think>"

# Any number of backslashes may precede "boxed": models double them, and a line break may stick to
# them. Other escaped characters are skipped, so that \{ and \} do not count as braces.
# Only the start of a run of backslashes may begin a box, or long runs would cost quadratic time.
_BRACE = re.compile(r"(?P<box>(?<!\\)\\+boxed\s*\{)|\\.|(?P<open>\{)|(?P<close>\})", re.DOTALL)
# A text that ends within the command, or before its brace, was cut off.
_CUT_COMMAND = re.compile(r"(?<!\\)\\+b(?:o(?:x(?:ed?)?)?)?\s*\Z")


def find_format_fault(text: str, *, kind: str) -> str | None:
    """Return why ``text`` breaks the format of problems of this kind, or None if it does not.

    Leading whitespace is a fault: the response *starts* with the tag (arXiv:2506.10910, 2.2).
    """
    if not text.startswith(OPEN_TAG):
        return f"does not start with {OPEN_TAG}"
    for tag in (OPEN_TAG, CLOSE_TAG):
        if (count := text.count(tag)) != 1:
            return f"has {count} {tag} tags instead of 1"
    _, answer = split_response(text)
    # For a kind with a user's verifier, that verifier checks the answer part.
    return _ANSWER_RULES[kind](answer) if kind in _ANSWER_RULES else None


def split_response(text: str) -> tuple[str, str]:
    """Split a response with one pair of tags into (thoughts, answer), both stripped."""
    thoughts, close, answer = text.removeprefix(OPEN_TAG).partition(CLOSE_TAG)
    assert close, f"no {CLOSE_TAG} in a response that passed the format check: {text[:80]!r}"
    return thoughts.strip(), answer.strip()


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
