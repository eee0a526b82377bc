"""Breakpoints of formulas: points where |x|, a root, a sign or an inverse is not analytic.

Agreement at sample points says nothing about points beyond a breakpoint. Equality needs a proof, or
agreement in every interval between the breakpoints, where both formulas are analytic.
"""

import itertools
from collections.abc import Sequence
from fractions import Fraction

from megatron_rl.math_answers.algebra import polynomials, sample_points
from megatron_rl.math_answers.algebra.normal_form import normal_form
from megatron_rl.math_answers.algebra.numeric import rational_exponent
from megatron_rl.math_answers.tree import Node, TooLarge, Undefined, minus, symbols_of

# Of the argument; inverse functions have one at its poles, too.
_BREAKPOINTS_AT_ZEROS = frozenset(
    {"abs", "sgn", "max", "min", "arcsin", "arccos", "arctan", "arccot", "arcsec", "arccsc",
     "arccosh"}
)  # fmt: skip
_BREAKPOINTS_ANYWHERE = frozenset({"floor", "ceil", "Re", "Im", "conjugate", "arg"})
_MAX_DEGREE = 12
_STEPS = (Fraction(1, 1009), Fraction(1, 7), Fraction(5, 11), Fraction(7, 5))
"""Distances from the outermost breakpoints; some below one, for an arcsine ends soon."""


def has_breakpoints(node: Node) -> bool:
    """Return whether a formula is not analytic everywhere."""
    return bool(_broken_parts(node))


def agree_between(gold: Node, answer: Node) -> bool:
    """Return whether formulas in one variable agree in every interval between breakpoints."""
    nodes = _broken_parts(gold) + _broken_parts(answer)
    names = symbols_of(gold) | symbols_of(answer)
    if len(names) != 1 or any(node.args[0] in _BREAKPOINTS_ANYWHERE for node in nodes):
        return False
    (name,) = names
    try:
        zeros = sorted({zero for node in nodes for zero in _breakpoints(node, name)})
    except (TooLarge, Undefined):
        return False
    total = 0
    for points in _intervals(zeros):
        values = [{name: point} for point in points]
        differ, num_agreements = sample_points.compare_at(gold, answer, values)
        if differ or not sample_points.are_real_together(gold, answer, values):
            return False
        total += num_agreements
    return sample_points.is_enough(total)


def have_roots_only(*nodes: Node) -> bool:
    """Return whether all breakpoints are those of even roots."""
    return all(each.op != "function" for node in nodes for each in _broken_parts(node))


def _broken_parts(node: Node) -> list[Node]:
    found = [each for arg in node.args if isinstance(arg, Node) for each in _broken_parts(arg)]
    is_function = (
        node.op == "function" and node.args[0] in _BREAKPOINTS_AT_ZEROS | _BREAKPOINTS_ANYWHERE
    )
    if (is_function or _is_even_root(node)) and symbols_of(node):
        found.append(node)
    return found


def _is_even_root(node: Node) -> bool:
    if node.op not in {"root", "power"} or not symbols_of(node.args[0]):
        return False
    exponent = rational_exponent(node.args[1])
    if exponent is None:
        return False
    index = exponent.numerator if node.op == "root" else exponent.denominator
    return index % 2 == 0


def _breakpoints(node: Node, name: str) -> list[Fraction]:
    """Return the breakpoints of a formula, to sixty digits."""
    if node.op != "function":
        return _zeros_of(node.args[0], name)
    arguments = node.args[1:]
    if node.args[0] in {"max", "min"}:
        arguments = tuple(minus(a, b) for a in arguments for b in arguments if a != b)
    return [zero for argument in arguments for zero in _zeros_of(argument, name)]


def _zeros_of(node: Node, name: str) -> list[Fraction]:
    form = normal_form(node)
    return [
        zero
        for poly in form
        for zero in _real_zeros(_coefficients(poly, name))
    ]  # fmt: skip


def _coefficients(poly: polynomials.Poly, name: str) -> list[Fraction]:
    """Return the rational coefficients of a polynomial, that of the highest power first."""
    found: dict[int, Fraction] = {}
    for monomial, coefficient in poly.items():
        exponents = dict(monomial)
        degree = exponents.pop(("symbol", name), Fraction(0))
        if exponents or degree.denominator != 1 or not 0 <= degree <= _MAX_DEGREE:
            raise TooLarge("no rational polynomial")
        found[int(degree)] = coefficient
    return [found.get(k, Fraction(0)) for k in range(max(found, default=0), -1, -1)]


def _real_zeros(coefficients: Sequence[Fraction]) -> list[Fraction]:
    if len(coefficients) < 2:
        return []
    if len(coefficients) == 2:
        return [-coefficients[1] / coefficients[0]]
    from megatron_rl.math_answers.algebra.sympy_proof import approximate_zeros

    return approximate_zeros(coefficients)


def _intervals(zeros: Sequence[Fraction]) -> list[list[Fraction]]:
    """Return some points of each interval between and beyond the zeros."""
    if not zeros:
        return [
            [
                *(next(iter(v.values())) for v in sample_points.near_points("x")),
                *sample_points.FAR_POINTS,
            ]
        ]
    first, last = zeros[0], zeros[-1]
    steps = [*_STEPS, *(point for point in sample_points.FAR_POINTS if point > 0)]
    inner = [
        [low + (high - low) * part for part in (Fraction(1, 97), Fraction(3, 7), Fraction(88, 91))]
        for low, high in itertools.pairwise(zeros)
    ]
    return [[first - step for step in steps], *inner, [last + step for step in steps]]
