"""Juxtaposition of letters: factors, as in "xy", or a word, as in "cat"."""

from collections.abc import Sequence

from megatron_rl.math_answers.text.tokens import Token
from megatron_rl.math_answers.text.units import KNOWN_WORDS

_MAX_FACTORS = 3


def is_product(word: str) -> bool:
    """Return whether letters within a formula are factors; longer runs name one quantity."""
    if not word.isascii():
        return False
    return len(word) <= _MAX_FACTORS or "".join(sorted(word)) == word


def is_product_alone(word: str) -> bool:
    """Return whether letters that are a whole answer are factors; "BCA" and "cat" are not."""
    if len(word) > _MAX_FACTORS + 1 or not (word.islower() and word.isascii()):
        return False
    return set(word) <= set("abcd") or not set(word) & set("aeiou")


def split_factors(tokens: Sequence[Token], *, has_units: bool, has_names: bool) -> Sequence[Token]:
    """Replace letters that are factors by one symbol each.

    Args:
        tokens: of a formula.
        has_units: whether names of units stay whole.
        has_names: whether capitals do, which name a segment or an angle.
    """
    if not any(token.kind == "word" for token in tokens):
        return tokens
    split: list[Token] = []
    for token in tokens:
        is_unit = has_units and token.text in KNOWN_WORDS
        is_name = has_names and token.text.isupper()
        if token.kind != "word" or is_unit or is_name or not is_product(token.text):
            split.append(token)
            continue
        for index, letter in enumerate(token.text):
            split.append(Token("symbol", letter, token.is_spaced and index == 0))
    return split
