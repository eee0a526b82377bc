"""Proofs that a sum of angles or logarithms of algebraic numbers is zero.

exp turns the sum into a product, whose equality with one is algebraic: 2 arctan(1/3) + arctan(1/7)
is pi/4, because (3 + i)^2 (7 + i) is 50 (1 + i) and the difference is less than pi.
"""

import math
from fractions import Fraction

from megatron_rl.math_answers.algebra import numeric, zero_algebraic
from megatron_rl.math_answers.tree import (
    IMAGINARY,
    ONE,
    Node,
    TooLarge,
    Undefined,
    Unreadable,
    number,
)
from megatron_rl.math_answers.tree import minus as subtract

_ANGLES = frozenset({"arctan", "arcsin", "arccos"})
_MAX_FACTOR = 60


def is_zero(node: Node) -> bool:
    """Return whether a rational combination of angles, or of logarithms, is proved to be zero."""
    try:
        terms: dict[Node, Fraction] = {}
        _collect(node, Fraction(1), terms)
        return _decide(node, terms)
    except (TooLarge, Undefined, Unreadable):
        return False


def _collect(node: Node, factor: Fraction, terms: dict[Node, Fraction]) -> None:
    if node.op == "add":
        for arg in node.args:
            _collect(arg, factor, terms)
    elif node.op == "negative":
        _collect(node.args[0], -factor, terms)
    elif node.op == "divide" and node.args[1].op == "number" and node.args[1].args[0]:
        _collect(node.args[0], factor / node.args[1].args[0], terms)
    elif node.op == "multiply" and any(arg.op == "number" for arg in node.args):
        at = next(i for i, arg in enumerate(node.args) if arg.op == "number")
        rest = node.args[:at] + node.args[at + 1 :]
        inner = rest[0] if len(rest) == 1 else Node("multiply", rest)
        _collect(inner, factor * node.args[at].args[0], terms)
    else:
        terms[node] = terms.get(node, Fraction(0)) + factor


def _decide(node: Node, terms: dict[Node, Fraction]) -> bool:
    kinds = {key.args[0] if key.op == "function" else key.op for key in terms}
    scale = math.lcm(*(factor.denominator for factor in terms.values()))
    whole = {key: int(factor * scale) for key, factor in terms.items()}
    if any(abs(times) > _MAX_FACTOR for times in whole.values()) or scale > _MAX_FACTOR:
        raise TooLarge("angles with large factors")
    if kinds == {"ln"}:
        return all(numeric.real_value(key.args[1]) > 0 for key in terms) and _is_one(
            [Node("power", (key.args[1], number(times))) for key, times in whole.items()]
        )
    if not kinds <= _ANGLES | {"pi"} or abs(numeric.real_value(node)) > 1 / (2 * scale):
        return False
    # Twice the angle, so that whole multiples of pi make no difference.
    turned = [
        Node("power", (_turned_twice(key), number(times)))
        for key, times in whole.items()
        if key.op != "pi"
    ]
    return bool(turned) and _is_one(turned)


def _turned_twice(key: Node) -> Node:
    """Return exp(2 i angle) as an algebraic number."""
    name, value = key.args
    times_i = Node("multiply", (IMAGINARY, value))
    if name == "arctan":
        return Node("divide", (Node("add", (ONE, times_i)), subtract(ONE, times_i)))
    other = Node("root", (subtract(ONE, Node("power", (value, number(2)))), number(2)))
    if name == "arcsin":
        return Node("power", (Node("add", (other, times_i)), number(2)))
    sine = Node("multiply", (IMAGINARY, other))
    return Node("power", (Node("add", (value, sine)), number(2)))


def _is_one(factors: list[Node]) -> bool:
    return zero_algebraic.is_zero(subtract(Node("multiply", tuple(factors)), ONE)) is True
