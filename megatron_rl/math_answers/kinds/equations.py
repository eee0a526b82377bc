"""Equivalence of equations and inequalities in several variables."""

from fractions import Fraction

from megatron_rl.math_answers.algebra import polynomials
from megatron_rl.math_answers.algebra.normal_form import normal_form
from megatron_rl.math_answers.algebra.polynomials import Monomial, Poly, Work
from megatron_rl.math_answers.kinds.records import Answer, Comparison, Definition, Quantity
from megatron_rl.math_answers.tree import Node, TooLarge, Undefined, minus, symbol, symbols_of

_UNITS_OF_WORK = 200_000
_MIRRORED = {">": "<", ">=": "<="}


def are_same_equations(left: Answer, right: Answer) -> bool:
    """Return whether two definitions or equations are one equation in another form."""
    pair = _as_comparison(left), _as_comparison(right)
    if pair[0] is None or pair[1] is None:
        return False
    return are_same_comparisons(pair[0], pair[1])


def are_same_comparisons(left: Comparison, right: Comparison) -> bool:
    """Return whether two relations hold for the same values of their variables."""
    if len(left.relations) != 1 or len(right.relations) != 1:
        return False
    first, second = _directed(left), _directed(right)
    if first[1] != second[1]:
        return False
    relation = first[1]
    try:
        tops = [normal_form(node).top for node in (first[0], second[0])]
        factor = _proportion(_clear(tops[0]), _clear(tops[1]))
        if factor is not None:
            return relation in {"=", "!="} or _is_positive(factor)
    except (TooLarge, Undefined):
        return False
    if relation != "=" or symbols_of(first[0]) != symbols_of(second[0]):
        return False
    if len(symbols_of(first[0])) < 2:
        return False  # compared by solutions
    from megatron_rl.math_answers.algebra.sympy_proof import have_same_zeros

    return have_same_zeros(first[0], second[0])


def _as_comparison(answer: Answer) -> Comparison | None:
    if isinstance(answer, Comparison):
        return answer
    if isinstance(answer, Definition) and isinstance(answer.value, Quantity):
        if "(" in answer.name:
            return None
        return Comparison(sides=(symbol(answer.name), answer.value.formula), relations=("=",))
    return None


def _directed(comparison: Comparison) -> tuple[Node, str]:
    """Return a relation as ``difference < 0``."""
    (left, right), (relation,) = comparison.sides, comparison.relations
    if relation in _MIRRORED:
        return minus(right, left), _MIRRORED[relation]
    return minus(left, right), relation


def _clear(poly: Poly) -> Poly:
    """Multiply by the powers of variables that leave no negative exponent and no common factor."""
    lowest: dict[tuple, Fraction] = {}
    for index, monomial in enumerate(poly):
        present = {atom: exponent for atom, exponent in monomial if atom[0] == "symbol"}
        for atom in lowest.keys() | present.keys():
            before = lowest.get(atom, Fraction(0)) if index else present.get(atom, Fraction(0))
            lowest[atom] = min(before, present.get(atom, Fraction(0)))
    shift = frozenset((a, -e) for a, e in lowest.items() if e < 0)
    if not shift:
        return poly
    return polynomials.multiply(poly, {shift: Fraction(1)}, Work(_UNITS_OF_WORK))


def _proportion(left: Poly, right: Poly) -> tuple[Poly, Poly] | None:
    """Return constants p and q with ``left * q == right * p``, None where there are none."""
    parts = _by_variables(left), _by_variables(right)
    if parts[0].keys() != parts[1].keys() or not parts[0]:
        return None
    key = next(iter(parts[0]))
    ours, theirs = parts[0][key], parts[1][key]
    work = Work(_UNITS_OF_WORK)
    is_same = polynomials.multiply(left, theirs, work) == polynomials.multiply(right, ours, work)
    return (ours, theirs) if is_same else None


def _by_variables(poly: Poly) -> dict[Monomial, Poly]:
    found: dict[Monomial, Poly] = {}
    for monomial, coefficient in poly.items():
        variables = frozenset(pair for pair in monomial if pair[0][0] not in _CONSTANT_KINDS)
        found.setdefault(variables, {})[monomial - variables] = coefficient
    return found


_CONSTANT_KINDS = frozenset({"prime", "pi", "e", "ln", "i"})


def _is_positive(factor: tuple[Poly, Poly]) -> bool:
    values = [polynomials.as_number(part) for part in factor]
    if values[0] is None or not values[1]:
        signs = {value > 0 for part in factor for value in part.values()}
        return len(signs) == 1
    return values[0] / values[1] > 0
