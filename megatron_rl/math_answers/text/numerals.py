"""Numerals: separators, decimals, repeating decimals, exponents."""

import re
from fractions import Fraction
from typing import NamedTuple

from megatron_rl.math_answers.tree import Unreadable

_MAX_DIGITS = 1000
_MAX_SCALE = 400


class Literal(NamedTuple):
    """A number as it was written."""

    value: Fraction
    unit: Fraction | None
    """Value of one in the last decimal place; None of exact numbers, such as integers."""


def read_number(match: re.Match[str], *, is_inside: bool) -> tuple[str, Literal, int]:
    """Return a matched number's spelling, its value and where the match is used up.

    Args:
        match: of the pattern in tokens.py, with one of its groups of numbers.
        is_inside: whether brackets surround it, where a comma separates items.

    Raises:
        Unreadable: the number has too many digits, or an open decimal has no cycle.
    """
    text = match[0]
    if len(text) > _MAX_DIGITS:
        raise Unreadable("has a number of too many digits")
    if match["grouped"] is not None:
        return _grouped(match, is_inside=is_inside)
    if match["repeating"] is not None:
        literal = Literal(_repeating(match), None)
    elif match["dotted_off"] is not None:
        literal = Literal(_dotted_off(match["dotted_off"]), None)
    elif match["decimal_comma"] is not None:
        literal = _decimal(text.replace("{,}", "."))
    else:
        literal = _decimal(text)
    return text, literal, match.end()


def _grouped(match: re.Match[str], *, is_inside: bool) -> tuple[str, Literal, int]:
    separator, text = match["separator"], match["grouped"]
    groups = text.removesuffix(match["rest"] or "").split(separator)[1:]
    # Between brackets a comma separates, unless the rest, such as 000, is no number by itself.
    if is_inside and separator == "," and any(group != "000" for group in groups):
        head = text.partition(",")[0]
        return head, _decimal(head), match.start() + len(head)
    literal = _decimal(text.replace(separator, ""))
    return text, literal, match.end()


def _decimal(text: str) -> Literal:
    mantissa, _, exponent = text.lower().partition("e")
    if len(exponent) > 5 or abs(scale := int(exponent or 0)) > _MAX_SCALE:
        raise Unreadable("has too large an exponent")
    places = len(mantissa.partition(".")[2])
    unit = Fraction(10) ** (scale - places) if places else None
    digits = mantissa if mantissa[-1] != "." else mantissa[:-1]
    return Literal(Fraction(digits) * Fraction(10) ** scale, unit)


def _repeating(match: re.Match[str]) -> Fraction:
    cycle = next(match[name] for name in ("over", "bar", "dot", "parens") if match[name])
    if match["last"]:
        cycle = cycle + match["dotted"] + match["last"]
    fixed = re.match(r"\d*\.\d*", match["repeating"])
    assert fixed is not None, "the pattern starts so"
    whole, _, places = fixed[0].partition(".")
    tail = Fraction(int(cycle), 10 ** len(cycle) - 1)
    return Fraction(int(whole + places or 0)) / 10 ** len(places) + tail / 10 ** len(places)


def _dotted_off(text: str) -> Fraction:
    """Read an open decimal, as 0.1666 of 1/6, by the shortest cycle its digits end in."""
    whole, _, places = text.partition(".")
    for length in range(1, len(places) // 2 + 1):
        times = 3 if length == 1 else 2
        cycle = places[-length:]
        if len(places) >= length * times and places.endswith(cycle * times):
            tail = Fraction(int(cycle), 10**length - 1)
            return Fraction(whole + places) / 10 ** len(places) + tail / 10 ** len(places)
    raise Unreadable("has an open decimal without a cycle")
