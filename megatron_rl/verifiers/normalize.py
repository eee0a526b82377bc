r"""One spelling for every way of writing the same answer: LaTeX and plain text.

What carries no value goes: sizes, spaces, ``$``, degree and percent signs, units, a closing dot.
Units are not compared; percentages are, by the caller, before they come here.
"""

import re
from collections.abc import Callable

_UNITS = (
    "cm|mm|km|ft|kg|mg|ml|mph|meters?|metres?|feet|foot|inch(?:es)?|miles?|yards?|"
    "square|cubic|sq|units?|degrees?|radians?|dollars?|cents?|euros?|percent|"
    "seconds?|minutes?|hours?|days?|weeks?|months?|years?"
)
_TEXT = r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it|sf)|mbox|operatorname)\s*\{([^{}]*)\}"

_CHARACTERS = str.maketrans(
    {
        "\u2212": "-",
        "\u2013": "-",
        "\u00d7": r"\times ",
        "\u00b7": r"\cdot ",
        "\u03c0": r"\pi ",
        "\u221e": r"\infty ",
        "\u221a": r"\sqrt ",
        "\u2264": r"\le ",
        "\u2265": r"\ge ",
        "\u222a": r"\cup ",
        "\u00b0": "",
        "$": "",
        "%": "",
        "\n": " ",
        "\t": " ",
        "\u00a0": " ",
        "~": " ",
    }
)

Replacement = str | Callable[[re.Match[str]], str]


def _join(match: re.Match[str]) -> str:
    return match[0].replace(" ", "").replace(",", "")


def _keep_separating_space(match: re.Match[str]) -> str:
    return f"{match['before']} " if match["before"] else ""


# In the order in which they are applied.
_RULES: list[tuple[str, Replacement]] = [
    (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|limits)(?![a-zA-Z])|\\!", ""),
    # The second backslash of a matrix row's end starts no command.
    (r"(?<!\\)\\[()\[\]]", ""),
    (r"(?<!\\)\\[,;: ]|\\q?quad(?![a-zA-Z])", " "),
    (r"\{,\}", ","),
    (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
    (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
    (r"\\leq(?![a-zA-Z])", r"\\le"),
    (r"\\geq(?![a-zA-Z])", r"\\ge"),
    (r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree(?![a-zA-Z])", ""),
    # Words between answers become commas, words after one are units, the rest is unwrapped.
    (r"\\text\s*\{\s*(?:and|or)\s*\}|(?<=\S)\s+(?:and|or)\s+(?=\S)", ","),
    (rf"(?<=[\d}}a-z)])\s*{_TEXT}(?:\s*\^\s*(?:\d|\{{\d\}}))?\s*[.]?\s*$", ""),
    (_TEXT, r" \1 "),
    (rf"(?<=\d)\s+(?:{_UNITS})(?:\s+(?:{_UNITS}))*(?:\^?[23]|\^\{{[23]\}})?\s*[.]?\s*$", ""),
    (r"[\s.,;:]+$|^\s+", ""),
    (r"^[-+]?\d{1,3}(?:,\s?\d{3})+(?=$|\.\d)|^[-+]?\d{1,3}(?: \d{3})+(?=$|\.\d)", _join),
    # A space between digits, or between a command and a letter, separates; others do not.
    (r"(?P<before>\\[A-Za-z]+(?=\s+[A-Za-z])|\d(?=\s+\d))?\s+", _keep_separating_space),
    (r"(?<!\d)\.(?=\d)", "0."),
    (r"^\(([A-Z])\)$", r"\1"),
    (r"_\{(\w)\}", r"_\1"),
    (r"\^\{(\w)\}", r"^\1"),
]
_REWRITES = [(re.compile(pattern), replacement) for pattern, replacement in _RULES]


def normalize_answer(answer: str) -> str:
    """Return the canonical spelling of an answer; normalising twice changes nothing more."""
    answer = answer.replace(r"\$", "").replace(r"\%", "").translate(_CHARACTERS)
    while (rewritten := _rewrite(answer)) != answer:
        answer = rewritten
    return answer


def _rewrite(answer: str) -> str:
    for pattern, replacement in _REWRITES:
        answer = pattern.sub(replacement, answer)
    return answer
