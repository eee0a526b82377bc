"""Amounts in words: "5 dozen", "2 thirds", "2 hours 30 minutes"."""

from collections.abc import Sequence
from fractions import Fraction

from megatron_rl.math_answers.kinds.records import Quantity
from megatron_rl.math_answers.text.brackets import is_op
from megatron_rl.math_answers.text.numerals import Literal
from megatron_rl.math_answers.text.tokens import Token
from megatron_rl.math_answers.text.units import LETTER_UNITS, read_unit
from megatron_rl.math_answers.text.word_tables import MAGNITUDES, PARTS
from megatron_rl.math_answers.tree import number

_MAX_UNITS = 4


def multiply_out(tokens: Sequence[Token]) -> Sequence[Token]:
    """Replace the "million" or "thirds" behind a number by a factor."""
    for index, token in enumerate(tokens):
        if not index or token.kind not in {"word", "text"}:
            continue
        head, _, rest = token.text.partition(" ")
        value = _factor_of(head.casefold())
        if value is not None and tokens[index - 1].kind == "number":
            factor = [Token("op", "*"), Token("number", head, False, Literal(value, None))]
            unit = [Token("text", rest, True)] if rest else []
            return [*tokens[:index], *factor, *unit, *tokens[index + 1 :]]
    return tokens


def read_compound(tokens: Sequence[Token]) -> Quantity | None:
    """Read "2 hours 30 minutes" as 2.5 hours; None where units do not go down one scale."""
    pairs = list(zip(tokens[::2], tokens[1::2], strict=False))
    if len(tokens) % 2 or not 2 <= len(pairs) <= _MAX_UNITS:
        return None
    if not all(amount.kind == "number" and _may_be_unit(unit) for amount, unit in pairs):
        return None
    units = [read_unit([unit]) for _, unit in pairs]
    first = units[0]
    total, last = Fraction(0), None
    for (amount, _), unit in zip(pairs, units, strict=True):
        if first is None or unit is None or amount.literal is None or not first.dimensions:
            return None
        if unit.dimensions != first.dimensions or (last is not None and unit.factor >= last):
            return None
        total, last = total + amount.literal.value * unit.factor / first.factor, unit.factor
    return Quantity(formula=number(total), unit=first)


def _may_be_unit(token: Token) -> bool:
    is_letter = token.kind == "symbol" and token.text in LETTER_UNITS
    is_function = token.kind == "function" and token.text in {"min", "sec"}
    return token.kind in {"word", "text"} or is_letter or is_function or is_op(token, "in")


def _factor_of(word: str) -> Fraction | None:
    if word in MAGNITUDES:
        return Fraction(MAGNITUDES[word])
    singular = word.removesuffix("s")
    return Fraction(1, PARTS[singular]) if singular in PARTS else None
