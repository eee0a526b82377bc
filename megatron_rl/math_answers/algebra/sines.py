"""Exact sines and cosines at the usual angles: multiples of 15, and odd ones of 18 degrees."""

from collections.abc import Callable
from fractions import Fraction

from megatron_rl.math_answers.algebra.form import ONE, Form, FormField, negative, of_number

_HALF = Fraction(1, 2)


def exact_sine(field: FormField, turns: Fraction) -> Form | None:
    """Return sin(turns * pi) for multiples of 15 degrees, None for other angles."""
    turns %= 2
    if turns > 1:
        found = exact_sine(field, turns - 1)
        return None if found is None else negative(found)
    if turns > _HALF:
        turns = 1 - turns
    if turns == Fraction(1, 10) or turns == Fraction(3, 10):
        sign = -1 if turns == Fraction(1, 10) else 1
        return field.plus(_root(Fraction(1, 4), 5), of_number(Fraction(sign, 4)))
    twelfths = turns * 12
    if twelfths.denominator != 1:
        return None
    quarter = Fraction(1, 4)
    values: dict[int, Callable[[], Form]] = {
        0: lambda: of_number(0),
        1: lambda: field.plus(_root(quarter, 2, 3), _root(-quarter, 2)),
        2: lambda: of_number(_HALF),
        3: lambda: _root(_HALF, 2),
        4: lambda: _root(_HALF, 3),
        5: lambda: field.plus(_root(quarter, 2, 3), _root(quarter, 2)),
        6: lambda: ONE,
    }
    return values[int(twelfths)]()


def exact_cosine(field: FormField, turns: Fraction) -> Form | None:
    """Return cos(turns * pi) where the sine of the complement is known."""
    return exact_sine(field, _HALF - turns)


def _root(factor: Fraction, *primes: int) -> Form:
    """Return ``factor`` times the square roots of different primes."""
    return Form({frozenset((("prime", prime), _HALF) for prime in primes): factor}, ONE.top)
