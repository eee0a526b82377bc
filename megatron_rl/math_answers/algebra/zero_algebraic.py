"""Proofs that an algebraic constant is zero: too close to zero for its size is zero.

An expression E made of integers, arithmetic, roots and roots of unity is a quotient of algebraic
integers. With u(E) and l(E) above all conjugates of its numerator and denominator and D above the
degree, E = 0 or |E| >= 1 / (u^(D-1) l) (Burnikel, Fleischer, Mehlhorn, Schirra 2000,
doi:10.1007/s004530010005). Evaluating E to that many bits therefore decides.
"""

import math
from collections.abc import Callable
from fractions import Fraction

from megatron_rl.math_answers.algebra import numeric
from megatron_rl.math_answers.algebra.form import rational_value
from megatron_rl.math_answers.algebra.normal_form import form_of
from megatron_rl.math_answers.tree import Node, TooLarge, Undefined, Unreadable

_MAX_DEGREE = 2_000
_MAX_BITS = 40_000
_MAX_EXPONENT = 200
_GUARD_BITS = 100

Bounds = tuple[float, float]
"""Binary logarithms of u and l."""


def is_zero(node: Node) -> bool | None:
    """Return whether a constant is zero; None where it is not known to be algebraic."""
    try:
        return _decide(node)
    except (TooLarge, Undefined, Unreadable):
        return None


def _decide(node: Node) -> bool:
    extension = _Extension()
    upper, lower = extension.bounds(node)
    degree = extension.degree()
    if degree > _MAX_DEGREE:
        raise TooLarge("an algebraic number of high degree")
    bits = math.ceil((degree - 1) * upper + lower) + 1
    precision = bits + math.ceil(2 * (upper + lower)) + _GUARD_BITS
    if precision > _MAX_BITS:
        raise TooLarge("an algebraic number of great height")
    return numeric.is_below(node, bits=bits, precision=precision)


class _Extension:
    """The field that an expression lives in, as far as its degree is concerned."""

    def __init__(self) -> None:
        self._roots: dict[tuple[Node, int], None] = {}
        self._order = 1
        """Of the roots of unity."""

    def degree(self) -> int:
        product = _totient(self._order)
        for _, index in self._roots:
            product *= index
            if product > _MAX_DEGREE:
                break
        return product

    def bounds(self, node: Node) -> Bounds:
        rule = _RULES.get(node.op)
        if rule is None:
            raise Unreadable("is no algebraic number")
        return rule(self, node)

    def root(self, radicand: Node, index: Fraction) -> Bounds:
        """Return the bounds of a root, and note that the field grows by it."""
        if index.denominator != 1 or not 1 <= index <= _MAX_EXPONENT:
            raise Unreadable("is no root")
        upper, lower = self.bounds(radicand)
        degree = int(index)
        self._roots[radicand, degree] = None
        if degree % 2 == 0:
            self.note_order(2 * degree)  # of a negative number
        if upper >= lower:
            return (upper + lower * (degree - 1)) / degree, lower
        return upper, (upper * (degree - 1) + lower) / degree

    def note_order(self, order: int) -> None:
        """Note that a root of unity occurs."""
        self._order = math.lcm(self._order, order)
        if self._order > 10 * _MAX_DEGREE:
            raise TooLarge("a root of unity of high order")


def _totient(order: int) -> int:
    return sum(math.gcd(k, order) == 1 for k in range(1, order + 1))


def _number(_: _Extension, node: Node) -> Bounds:
    value = node.args[0]
    return math.log2(max(abs(value.numerator), 1)), math.log2(value.denominator)


def _sum(field: _Extension, node: Node) -> Bounds:
    upper, lower = field.bounds(node.args[0])
    for arg in node.args[1:]:
        other_upper, other_lower = field.bounds(arg)
        upper = max(upper + other_lower, other_upper + lower) + 1
        lower += other_lower
    return upper, lower


def _product(field: _Extension, node: Node) -> Bounds:
    parts = [field.bounds(arg) for arg in node.args]
    return sum(part[0] for part in parts), sum(part[1] for part in parts)


def _quotient(field: _Extension, node: Node) -> Bounds:
    top, bottom = (field.bounds(arg) for arg in node.args)
    return top[0] + bottom[1], top[1] + bottom[0]


def _power(field: _Extension, node: Node) -> Bounds:
    base, exponent = node.args
    form = form_of(exponent)
    value = None if form is None else rational_value(form)
    if value is None:
        return _power_of_e(field, base, exponent)
    if abs(value.numerator) > _MAX_EXPONENT:
        raise TooLarge("a huge exponent")
    upper, lower = (
        field.bounds(base)
        if value.denominator == 1
        else field.root(base, Fraction(value.denominator))
    )
    times = abs(value.numerator)
    return (upper * times, lower * times) if value >= 0 else (lower * times, upper * times)


def _power_of_e(field: _Extension, base: Node, exponent: Node) -> Bounds:
    turns = _turns(Node("divide", (exponent, Node("i"))))
    if base.op != "e" or turns is None:
        raise Unreadable("is no algebraic number")
    field.note_order(2 * turns.denominator)
    return 0.0, 0.0


def _root(field: _Extension, node: Node) -> Bounds:
    form = form_of(node.args[1])
    value = None if form is None else rational_value(form)
    if value is None:
        raise Unreadable("is no root")
    return field.root(node.args[0], value)


def _function(field: _Extension, node: Node) -> Bounds:
    name, argument = node.args[0], node.args[1]
    turns = _turns(argument)
    if turns is None or name not in _TRIGONOMETRY:
        raise Unreadable("is no algebraic number")
    field.note_order(math.lcm(4, 2 * turns.denominator))
    return _TRIGONOMETRY[name]


# A sine is (z - 1/z) / 2i for a root of unity z; a tangent is a quotient of two.
_TRIGONOMETRY: dict[str, Bounds] = {
    "sin": (1.0, 1.0), "cos": (1.0, 1.0), "tan": (2.0, 2.0), "cot": (2.0, 2.0),
    "sec": (1.0, 1.0), "csc": (1.0, 1.0),
}  # fmt: skip


def _turns(node: Node) -> Fraction | None:
    """Return q where a formula is q * pi."""
    form = form_of(Node("divide", (node, Node("pi"))))
    return None if form is None else rational_value(form)


def _imaginary(field: _Extension, _: Node) -> Bounds:
    field.note_order(4)
    return 0.0, 0.0


_RULES: dict[str, Callable[[_Extension, Node], Bounds]] = {
    "number": _number,
    "add": _sum,
    "multiply": _product,
    "negative": lambda field, node: field.bounds(node.args[0]),
    "divide": _quotient,
    "percent": lambda field, node: (field.bounds(node.args[0])[0],
                                    field.bounds(node.args[0])[1] + math.log2(100)),
    "power": _power,
    "root": _root,
    "function": _function,
    "i": _imaginary,
}  # fmt: skip
