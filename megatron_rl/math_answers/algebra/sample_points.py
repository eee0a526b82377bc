"""Sample points: numbers put into two formulas, to refute or accept that they are equal.

A formula of analytic functions that agrees with another to 35 digits at many points is the same,
unless numbers in the formulas are so small or large that they hide the difference; then more digits
are compared.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from megatron_rl.math_answers.algebra import numeric
from megatron_rl.math_answers.algebra.numeric import are_distinct, evaluate, is_finite, is_real
from megatron_rl.math_answers.tree import Node, TooLarge, Undefined, Unreadable

# Points without special meaning; both signs, so that |x| is not x.
_POINTS = (
    Fraction(7, 5), Fraction(-13, 11), Fraction(29, 17), Fraction(3, 7), Fraction(-41, 19),
    Fraction(53, 23), Fraction(-5, 13), Fraction(61, 31), Fraction(-71, 29), Fraction(17, 37),
)  # fmt: skip
FAR_POINTS = tuple(
    sign * (Fraction(10) ** power + Fraction(3, 7)) for power in range(2, 7) for sign in (1, -1)
)
"""Numbers beyond most changes of sign."""
_NUM_NEAR_POINTS = len(_POINTS)
_MIN_AGREEMENTS = 3
_MAX_NEAR_POINT = 3.0
"""About the largest absolute value of a near point."""
_MAX_HIDDEN_BITS = 80
"""Differences that numbers shift by fewer places show in the 116 bits that are compared."""
_MAX_BITS = 4_000
"""Precision up to which hidden differences are looked for."""


def near_points(names: Sequence[str]) -> list[dict[str, Fraction]]:
    """Return values of the variables within a few units of zero."""
    return [
        {
            name: _POINTS[(index + 3 * k) % len(_POINTS)] + Fraction(k, 7)
            for k, name in enumerate(names)
        }
        for index in range(_NUM_NEAR_POINTS if names else 1)
    ]


def far_points(names: Sequence[str]) -> list[dict[str, Fraction]]:
    """Return values of the variables far from zero, of either sign."""
    return [
        {name: FAR_POINTS[(index + 3 * k) % len(FAR_POINTS)] for k, name in enumerate(names)}
        for index in range(len(FAR_POINTS))
    ]


def compare_at(
    gold: Node,
    answer: Node,
    points: Iterable[Mapping[str, Fraction]],
    *,
    bits: int | None = None,
) -> tuple[bool, int]:
    """Return whether two formulas differ at a point, and at how many they agree.

    Where a real value stands against none or against one that is not real there is no verdict; of
    formulas that are real nowhere the other values are compared.
    """
    bits = numeric.COMPARED_BITS if bits is None else bits
    num_agreements, spare = 0, []
    for values in points:
        pair = _values_at(gold, answer, values)
        if pair is None:
            continue
        if values and not (is_real(pair[0]) and is_real(pair[1])):
            spare.append(pair)
        elif is_finite(pair[0]) and is_finite(pair[1]):
            if are_distinct(*pair, bits=bits):
                return True, num_agreements
            num_agreements += 1
    if num_agreements == 0:
        for pair in spare:
            if is_finite(pair[0]) and is_finite(pair[1]):
                if are_distinct(*pair, bits=bits):
                    return True, num_agreements
                num_agreements += 1
    return False, num_agreements


def are_real_together(gold: Node, answer: Node, points: Iterable[Mapping[str, Fraction]]) -> bool:
    """Return whether at every point both formulas are real or neither is."""
    for values in points:
        found = []
        for node in (gold, answer):
            try:
                found.append(is_real(evaluate(node, values)))
            except (TooLarge, Unreadable):
                break
            except Undefined:
                found.append(False)
        if len(found) == 2 and found[0] != found[1]:
            return False
    return True


def _values_at(gold: Node, answer: Node, values: Mapping[str, Fraction]) -> tuple | None:
    try:
        return evaluate(gold, values), evaluate(answer, values)
    except (TooLarge, Undefined, Unreadable):
        return None


def may_hide(gold: Node, answer: Node) -> bool:
    """Return whether numbers in two formulas may hide their difference from sixty digits."""
    # Of "not a number" no comparison holds.
    return not _hidden_bits(gold) + _hidden_bits(answer) <= _MAX_HIDDEN_BITS


def are_same_to_the_last_bit(gold: Node, answer: Node, names: Sequence[str]) -> bool | None:
    """Return whether formulas agree to more bits than may hide; None where those are too many."""
    hidden = _hidden_bits(gold) + _hidden_bits(answer)
    if not hidden <= _MAX_BITS:
        return None
    bits = math.ceil(hidden) + numeric.COMPARED_BITS
    with numeric.to_bits(bits):
        differ, num_agreements = compare_at(gold, answer, near_points(names), bits=bits)
    return is_enough(num_agreements) and not differ


def is_enough(num_agreements: int) -> bool:
    """Return whether so many agreements are no coincidence."""
    return num_agreements >= _MIN_AGREEMENTS


def _hidden_bits(node: Node) -> float:
    """Return by how many binary places the numbers in a formula can shift a part of it."""
    if node.op == "number":
        value = node.args[0]
        return value.numerator.bit_length() + value.denominator.bit_length() - 2.0
    parts = [arg for arg in node.args if isinstance(arg, Node)]
    if node.op == "power":
        base, exponent = parts
        own = max(_hidden_bits(base), 2.0) if base.op != "symbol" else 1.0
        return own * _magnitude(exponent)
    if node.op in {"factorial", "binomial"}:
        size = max(map(_magnitude, parts))
        return math.inf if size == math.inf else size * math.log2(size + 2)
    if node.op == "function" and node.args[0] in {"sinh", "cosh", "tanh", "coth"}:
        return 3 * _magnitude(parts[0])  # tanh(x) is 1 - 2 exp(-2x), nearly
    return sum(map(_hidden_bits, parts))


def _magnitude(node: Node) -> float:
    """Return a bound of a formula's size at the near points, infinite where there is none."""
    try:
        return _bound(node)
    except OverflowError:
        return math.inf


def _bound(node: Node) -> float:
    if node.op == "number":
        return abs(float(node.args[0]))
    parts = [_bound(arg) for arg in node.args if isinstance(arg, Node)]
    if node.op == "add":
        return sum(parts)
    if node.op == "multiply":
        return math.prod(parts)
    if node.op == "divide":
        is_number = node.args[1].op == "number" and node.args[1].args[0]
        return parts[0] / parts[1] if is_number else 10 * parts[0]
    if node.op == "power":
        return max(parts[0], 2.0) ** parts[1]
    if node.op == "factorial":
        return math.gamma(parts[0] + 1)
    return max([_MAX_NEAR_POINT + 0.2, *parts])
