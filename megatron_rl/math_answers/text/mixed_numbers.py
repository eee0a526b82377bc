r"""Mixed numbers: the fraction behind an integer, as in ``3\frac{1}{2}`` or ``3 1/2``."""

from collections.abc import Callable
from fractions import Fraction

from megatron_rl.math_answers.text.tokens import Token

Peek = Callable[[int], Token]
"""Returns the token so many places ahead, one of kind ``end`` behind the last."""


def read_proper_fraction(peek: Peek) -> tuple[Fraction, int] | None:
    """Return a proper fraction and how many tokens it takes, None where there is none."""
    found = _read_latex(peek) if _is_op(peek(0), "frac") else _read_slashed(peek)
    if found is None:
        return None
    numerator, denominator, num_tokens = found
    is_whole = numerator.denominator == denominator.denominator == 1
    if not is_whole or not 0 < numerator < denominator:
        return None
    return numerator / denominator, num_tokens


def _read_latex(peek: Peek) -> tuple[Fraction, Fraction, int] | None:
    at, values = 1, list[Fraction]()
    while len(values) < 2:
        is_group = _is_op(peek(at), "{")
        inner = peek(at + is_group)
        if inner.literal is None or (is_group and not _is_op(peek(at + 2), "}")):
            return None
        at += 3 if is_group else 1
        if not is_group and len(inner.text) == 2 and not values:  # \frac12
            values = [Fraction(inner.text[0]), Fraction(inner.text[1])]
        else:
            values.append(inner.literal.value)
    return values[0], values[1], at


def _read_slashed(peek: Peek) -> tuple[Fraction, Fraction, int] | None:
    if not (peek(0).kind == "number" and peek(0).is_spaced and _is_op(peek(1), "/")):
        return None
    top, bottom = peek(0).literal, peek(2).literal
    return None if top is None or bottom is None else (top.value, bottom.value, 3)


def _is_op(token: Token, text: str) -> bool:
    return token.kind == "op" and token.text == text
