"""Tables of words in seven languages, from ``words.toml``, merged over the languages."""

import re
import tomllib
from collections.abc import Iterator
from importlib import resources
from typing import Any

_LANGUAGES: dict[str, dict[str, Any]] = tomllib.loads(
    resources.files("megatron_rl.math_answers.text").joinpath("words.toml").read_text("utf-8")
)


def _lists(key: str) -> Iterator[str]:
    """Yield the words that the languages list under a key."""
    for table in _LANGUAGES.values():
        if key in table:
            yield from table[key]


def _meanings(key: str) -> dict[str, str]:
    """Return word to meaning from the tables of a name, which go from meaning to words."""
    return {
        word: meaning
        for table in _LANGUAGES.values()
        if key in table
        for meaning, words in table[key].items()
        for word in words
    }


UNITS = _meanings("units")
"""The English name of a unit."""
AND_OR = dict.fromkeys(_lists("and"), "and") | dict.fromkeys(_lists("or"), "or")
AND_OR_IN_TEXT = dict.fromkeys(_lists("and_in_text"), "and") | dict.fromkeys(
    _lists("or_in_text"), "or"
)
"""The same in text only, where these words are no products of variables."""
NOT_UNITS = frozenset(_lists("not_units"))
"""Words that say something else of a number than what it counts."""
NOT_UNITS_CHINESE = re.compile(_LANGUAGES["chinese"]["not_units_pattern"])
WHERE = frozenset(_lists("where"))
"""Words before the domain of a parameter."""
IF = frozenset(_lists("if"))
"""Words before the condition of a case."""
OTHERWISE = frozenset(_lists("otherwise"))
"""Words for the last case."""
IS = frozenset(_lists("is"))
"""Words inside of a condition that say nothing."""
NO_SOLUTION = "|".join(_lists("no_solution"))
EVERY_REAL = "|".join(_lists("every_real"))
ANSWER_IS = "|".join(_lists("answer_is"))
"""Alternatives of regular expressions, in lower case."""
MAGNITUDES = {word: int(value) for word, value in _meanings("magnitudes").items()}
PARTS = {word: int(value) for word, value in _meanings("parts").items()}
"""Into how many parts a whole is divided, by the name of one part in the singular."""
