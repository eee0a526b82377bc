r"""Boxes of a response: the contents of the last ``\boxed{...}``, in time linear in the text."""

import re

from megatron_rl.math_answers.text.normalize import strip_blanks

# Any number of backslashes may precede "boxed": models double them, and a line break may stick to
# them. Other escaped characters are skipped, so that \{ and \} do not count as braces.
# Only the start of a run of backslashes may begin a box, or long runs would cost quadratic time.
_BRACE = re.compile(r"(?P<box>(?<!\\)\\+boxed\s*\{)|\\.|(?P<open>\{)|(?P<close>\})", re.DOTALL)
# A text that ends within the command, or before its brace, was cut off.
_CUT_COMMAND = re.compile(r"(?<!\\)\\+b(?:o(?:x(?:ed?)?)?)?\s*\Z")


def find_last_box(text: str) -> str | None:
    r"""Return the contents of the last ``\boxed{...}``; None if there is none, or it is unfinished.

    Takes time linear in the text, however many braces are left open.
    """
    last, is_finished = scan_boxes(text)
    return None if last is None or not is_finished else strip_blanks(text[slice(*last)])


def scan_boxes(text: str) -> tuple[tuple[int, int] | None, bool]:
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
