"""Numerical values to sixty digits, which order numbers and refute equality, never confirm it."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from fractions import Fraction
from typing import Any

import mpmath

from megatron_rl.math_answers.tree import Node, TooLarge, Undefined, Unreadable

_DIGITS = 60
_MAX_EXPONENT_BITS = 40
_MAX_FACTORIAL = 100_000
COMPARED_BITS = 116
"""Binary places to which values are compared: 35 digits of the sixty."""
_SPARE_BITS = 100
_IMAGINARY_TOLERANCE = 1e-40
_CONTEXT = mpmath.mp.clone()
_CONTEXT.dps = _DIGITS

Value = Any
"""An mpmath number."""


def evaluate(node: Node, values: Mapping[str, Fraction]) -> Value:
    """Return a formula's value to sixty digits.

    Raises:
        TooLarge: the value, or a number on the way, is astronomical, or there is no rule for it.
        Undefined: it has none.
        Unreadable: it has a variable that ``values`` does not have.
    """
    rule = _RULES.get(node.op)
    if rule is None:
        raise TooLarge(f"no numerical rule for {node.op}")
    try:
        return rule(node.args, values)
    except ZeroDivisionError as error:
        raise Undefined("division by zero") from error
    except (ValueError, OverflowError, mpmath.libmp.NoConvergence) as error:
        raise TooLarge(str(error)) from error


def real_value(node: Node) -> Value:
    """Return the value of a real constant.

    Raises:
        Unreadable: it is not real, or not constant.
    """
    value = _CONTEXT.mpmathify(evaluate(node, {}))
    if isinstance(value, _CONTEXT.mpc):
        if abs(value.imag) > _IMAGINARY_TOLERANCE * (1 + abs(value.real)):
            raise Unreadable("is no real number")
        value = value.real
    if not _CONTEXT.isfinite(value):
        raise TooLarge("no finite number")
    return value


def compare_reals(left: Node, right: Node) -> int:
    """Return -1, 0 or 1 as the first constant is smaller, indistinguishable or larger."""
    difference = real_value(left) - real_value(right)
    if abs(difference) < _CONTEXT.mpf(10) ** (15 - _DIGITS):
        return 0
    return -1 if difference < 0 else 1


def are_distinct(left: Value, right: Value, *, bits: int = COMPARED_BITS) -> bool:
    """Return whether two values differ by more than rounding could explain."""
    size = max(abs(left), abs(right), _CONTEXT.mpf(10) ** -30)
    return bool(abs(left - right) > _CONTEXT.ldexp(size, -bits))


def to_bits(bits: int) -> AbstractContextManager:
    """Return a context in which values are computed well enough to compare so many bits."""
    return _CONTEXT.workprec(bits + _SPARE_BITS)


def is_real(value: Value) -> bool:
    """Return whether a value is a finite real number."""
    if not _CONTEXT.isfinite(value):
        return False
    if isinstance(value, _CONTEXT.mpc):
        return bool(abs(value.imag) <= _IMAGINARY_TOLERANCE * (1 + abs(value.real)))
    return True


def is_finite(value: Value) -> bool:
    """Return whether a value is a finite number, real or not."""
    return bool(_CONTEXT.isfinite(value))


def is_below(node: Node, *, bits: int, precision: int) -> bool:
    """Return whether a constant, computed to ``precision`` bits, is below ``2 ** -bits``."""
    with _CONTEXT.workprec(precision):
        return bool(abs(evaluate(node, {})) < _CONTEXT.ldexp(_CONTEXT.mpf(1), -bits))


def rounds_to(node: Node, gold: Fraction, last_place: Fraction) -> bool:
    """Return whether a real constant is within half of the gold's last place of it."""
    value = real_value(node)
    half = last_place / 2
    difference = abs(value - _of(gold))
    limit = _of(half)
    return bool(difference <= limit * (1 + _CONTEXT.mpf(10) ** -40))


def _of(value: Fraction) -> Value:
    return _CONTEXT.mpf(value.numerator) / value.denominator


def _symbol(args: tuple, values: Mapping[str, Fraction]) -> Value:
    if args[0] not in values:
        raise Unreadable(f"has the variable {args[0]}, which has no value")
    return _of(values[args[0]])


def _add(args: tuple, values: Mapping[str, Fraction]) -> Value:
    return sum((evaluate(arg, values) for arg in args), _CONTEXT.mpf(0))


def _multiply(args: tuple, values: Mapping[str, Fraction]) -> Value:
    product = _CONTEXT.mpf(1)
    for arg in args:
        product = product * evaluate(arg, values)
    return product


def _divide(args: tuple, values: Mapping[str, Fraction]) -> Value:
    bottom = evaluate(args[1], values)
    if bottom == 0:
        raise Undefined("division by zero")
    return evaluate(args[0], values) / bottom


def _power(args: tuple, values: Mapping[str, Fraction]) -> Value:
    base, exponent = evaluate(args[0], values), evaluate(args[1], values)
    return _raise(base, exponent, rational_exponent(args[1]))


def _root(args: tuple, values: Mapping[str, Fraction]) -> Value:
    index = evaluate(args[1], values)
    if index == 0:
        raise Undefined("a root of index zero")
    rational = rational_exponent(args[1])
    inverse = None if rational is None or rational == 0 else 1 / rational
    return _raise(evaluate(args[0], values), 1 / index, inverse)


def rational_exponent(node: Node) -> Fraction | None:
    """Return the rational number an exponent is written as, None for others."""
    if node.op == "number":
        return node.args[0]
    if node.op == "negative":
        inner = rational_exponent(node.args[0])
        return None if inner is None else -inner
    if node.op == "divide":
        top, bottom = (rational_exponent(arg) for arg in node.args)
        return None if top is None or not bottom else top / bottom
    return None


def _raise(base: Value, exponent: Value, rational: Fraction | None) -> Value:
    if base == 0:
        if _CONTEXT.re(exponent) < 0:
            raise Undefined("division by zero")
        return _CONTEXT.mpf(1) if exponent == 0 else _CONTEXT.mpf(0)
    if not (_CONTEXT.isfinite(base) and _CONTEXT.isfinite(exponent)):
        raise TooLarge("no finite number")
    size = abs(exponent) * (abs(_CONTEXT.log(abs(base))) + 4)
    if size > 0 and _CONTEXT.mag(size) > _MAX_EXPONENT_BITS:
        raise TooLarge("an astronomical number")
    is_odd_root = rational is not None and rational.denominator > 1 and rational.denominator % 2
    if is_odd_root and not isinstance(base, _CONTEXT.mpc) and base < 0:
        assert rational is not None, "checked above"
        sign = -1 if rational.numerator % 2 else 1
        return sign * _CONTEXT.power(-base, exponent)
    return _CONTEXT.power(base, exponent)


def _factorial(args: tuple, values: Mapping[str, Fraction]) -> Value:
    value = evaluate(args[0], values)
    if abs(value) > _MAX_FACTORIAL:
        raise TooLarge("a huge factorial")
    return _CONTEXT.gamma(value + 1)


def _binomial(args: tuple, values: Mapping[str, Fraction]) -> Value:
    top, bottom = evaluate(args[0], values), evaluate(args[1], values)
    if max(abs(top), abs(bottom)) > _MAX_FACTORIAL:
        raise TooLarge("a huge binomial coefficient")
    return _CONTEXT.binomial(top, bottom)


def _function(args: tuple, values: Mapping[str, Fraction]) -> Value:
    if args[0] in {"max", "min"}:
        found = [evaluate(arg, values) for arg in args[1:]]
        if any(isinstance(value, _CONTEXT.mpc) for value in found):
            raise Undefined("an order of complex numbers")
        return max(found) if args[0] == "max" else min(found)
    rule = _FUNCTIONS.get(args[0])
    if rule is None or len(args) != 2:
        raise TooLarge(f"no numerical rule for {args[0]}")
    value = evaluate(args[1], values)
    if not _CONTEXT.isfinite(value) or _CONTEXT.mag(value) > _MAX_EXPONENT_BITS:
        raise TooLarge("an astronomical argument")
    return rule(value)


def _logarithm(value: Value) -> Value:
    if value == 0:
        raise Undefined("logarithm of zero")
    return _CONTEXT.log(value)


_FUNCTIONS: dict[str, Callable[[Value], Value]] = {
    "ln": _logarithm,
    "abs": abs,
    "floor": _CONTEXT.floor,
    "ceil": _CONTEXT.ceil,
    "arcsin": _CONTEXT.asin,
    "arccos": _CONTEXT.acos,
    "arctan": _CONTEXT.atan,
    "arcsinh": _CONTEXT.asinh,
    "arccosh": _CONTEXT.acosh,
    "arctanh": _CONTEXT.atanh,
    "sgn": _CONTEXT.sign,
    "conjugate": _CONTEXT.conj,
    "Re": _CONTEXT.re,
    "Im": _CONTEXT.im,
} | {
    name: getattr(_CONTEXT, name)
    for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth")
}
_RULES: dict[str, Callable[[tuple, Mapping[str, Fraction]], Value]] = {
    "number": lambda args, _: _of(args[0]),
    "symbol": _symbol,
    "pi": lambda _, __: +_CONTEXT.pi,
    "e": lambda _, __: +_CONTEXT.e,
    "i": lambda _, __: _CONTEXT.mpc(0, 1),
    "add": _add,
    "multiply": _multiply,
    "negative": lambda args, values: -evaluate(args[0], values),
    "divide": _divide,
    "percent": lambda args, values: evaluate(args[0], values) / 100,
    "degree": lambda args, values: evaluate(args[0], values) * _CONTEXT.pi / 180,
    "power": _power,
    "root": _root,
    "factorial": _factorial,
    "binomial": _binomial,
    "function": _function,
}
