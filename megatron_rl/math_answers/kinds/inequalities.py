"""Solution sets of relations in one real variable, by the points where a sign may change."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cmp_to_key

from megatron_rl.math_answers.algebra import polynomials
from megatron_rl.math_answers.algebra.normal_form import form_of, normal_form
from megatron_rl.math_answers.algebra.numeric import real_value
from megatron_rl.math_answers.algebra.polynomials import Poly
from megatron_rl.math_answers.kinds.real_sets import (
    ALL_REALS,
    complement,
    intersection,
    is_infinite,
    is_surely_empty,
    make_interval,
    make_point,
    order,
    union,
)
from megatron_rl.math_answers.kinds.records import (
    Answer,
    Collection,
    Comparison,
    Definition,
    Ordered,
    Piece,
    Quantity,
    RealSet,
)
from megatron_rl.math_answers.tree import (
    INFINITY,
    MINUS_INFINITY,
    ZERO,
    Node,
    TooLarge,
    Undefined,
    Unreadable,
    minus,
    number,
    replace,
    symbol,
    symbols_of,
)

_MAX_ABSOLUTES = 3
_MAX_DEGREE = 12
_MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}


def solve(comparison: Comparison) -> RealSet | None:
    """Return the real numbers for which a relation holds, None where that is not known."""
    return next(iter(solutions(comparison)), None)


def solutions(comparison: Comparison) -> Iterator[RealSet]:
    """Yield the solution set for every variable that a relation may be about."""
    for variable in _variables_of(comparison):
        try:
            yield _solve(comparison, variable)
        except (Unreadable, TooLarge, Undefined):
            continue


def _solve(comparison: Comparison, variable: str) -> RealSet:
    total = ALL_REALS
    pairs = zip(comparison.sides, comparison.sides[1:], comparison.relations, strict=False)
    for index, (left, right, relation) in enumerate(pairs):
        found = _solve_pair(left, right, relation, variable)
        # Symbolic ends have no order; a chain a < x < b is read end by end.
        total = _chain(total, found) if index else found
    return RealSet(pieces=total.pieces, variable=variable)


def _chain(first: RealSet, second: RealSet) -> RealSet:
    try:
        return intersection(first, second)
    except Unreadable:
        (left,), (right,) = first.pieces, second.pieces
        low = left if left.low != MINUS_INFINITY else right
        high = left if left.high != INFINITY else right
        piece = Piece(
            low=low.low,
            high=high.high,
            is_low_open=low.is_low_open,
            is_high_open=high.is_high_open,
        )
        return RealSet(pieces=(piece,))


def _variables_of(comparison: Comparison) -> list[str]:
    names: set[str] = set().union(*(symbols_of(side) for side in comparison.sides))
    if len(names) == 1:
        return list(names)
    sides = comparison.sides
    if len(sides) == 3 and sides[1].op == "symbol":  # the middle of a < x < b
        return [sides[1].args[0]]
    alone = [side.args[0] for side in sides if side.op == "symbol"]
    return [name for name in alone if sum(name in symbols_of(side) for side in sides) == 1]


def _solve_pair(left: Node, right: Node, relation: str, variable: str) -> RealSet:
    if right.op == "symbol" and right.args[0] == variable and variable not in symbols_of(left):
        left, right, relation = right, left, _MIRRORED.get(relation, relation)
    if left.op == "symbol" and left.args[0] == variable and variable not in symbols_of(right):
        return _direct(right, relation)
    if symbols_of(left) | symbols_of(right) != {variable}:
        raise Unreadable("has several variables")
    return _by_signs(minus(left, right), relation, variable)


def _direct(end: Node, relation: str) -> RealSet:
    if relation in {"<", "<="}:
        return make_interval(MINUS_INFINITY, end, True, relation == "<")
    if relation in {">", ">="}:
        return make_interval(end, INFINITY, relation == ">", True)
    if relation == "=":
        return make_point(end)
    if relation == "!=":
        return complement(make_point(end))
    raise Unreadable(f"has the relation {relation}")


def _by_signs(difference: Node, relation: str, variable: str) -> RealSet:
    ends = _sort(_critical_points(difference, variable))
    found = RealSet(pieces=())
    for index, end in enumerate(ends):
        if _holds(difference, variable, end, relation):
            found = union(found, make_point(end))
        if index and _holds(difference, variable, _between(ends[index - 1], end), relation):
            found = union(found, make_interval(ends[index - 1], end, True, True))
    if not ends:
        return ALL_REALS if _holds(difference, variable, ZERO, relation) else found
    outer = [
        (minus(ends[0], number(1)), make_interval(MINUS_INFINITY, ends[0], True, True)),
        (minus(ends[-1], number(-1)), make_interval(ends[-1], INFINITY, True, True)),
    ]
    for point, interval in outer:
        if _holds(difference, variable, point, relation):
            found = union(found, interval)
    return found


def _between(low: Node, high: Node) -> Node:
    return Node("divide", (Node("add", (low, high)), number(2)))


def _holds(difference: Node, variable: str, point: Node, relation: str) -> bool:
    value = replace(difference, symbol(variable), point)
    try:
        form = form_of(value)
        sign = 0 if form is not None and not form.top else _sign(value)
    except (Undefined, Unreadable):
        return False
    return {
        "<": sign < 0,
        "<=": sign <= 0,
        ">": sign > 0,
        ">=": sign >= 0,
        "=": sign == 0,
        "!=": sign != 0,
    }[relation]


def _sign(value: Node) -> int:
    found = real_value(value)
    if abs(found) < 1e-40:
        raise TooLarge("a sign too close to call")
    return 1 if found > 0 else -1


def _sort(points: Sequence[Node]) -> list[Node]:
    distinct: list[Node] = []
    for point in sorted(points, key=cmp_to_key(order)):
        if not distinct or order(distinct[-1], point) != 0:
            distinct.append(point)
    return distinct


def _critical_points(difference: Node, variable: str) -> list[Node]:
    """Return all real points where the sign may change, and perhaps others."""
    absolutes = _absolutes(difference)
    if len(absolutes) > _MAX_ABSOLUTES:
        raise TooLarge("too many absolute values")
    points: list[Node] = []
    for inner in absolutes:
        points.extend(_zeros(inner, variable))
    for signs in itertools.product((1, -1), repeat=len(absolutes)):
        variant = difference
        for inner, sign in zip(absolutes, signs, strict=True):
            signed = inner if sign > 0 else Node("negative", (inner,))
            variant = replace(variant, Node("function", ("abs", inner)), signed)
        points.extend(_zeros(variant, variable))
    return points


def _absolutes(node: Node) -> list[Node]:
    found = [node.args[1]] if node.op == "function" and node.args[0] == "abs" else []
    for arg in node.args:
        if isinstance(arg, Node):
            found.extend(inner for inner in _absolutes(arg) if inner not in found)
    return found


def _zeros(node: Node, variable: str) -> list[Node]:
    form = normal_form(node)
    top = _zeros_of_sum(_clear(form.top, variable), variable)
    poles = [ZERO] if any(_degree_of(m, variable) < 0 for m in form.top) else []
    return top + poles + _zeros_of_sum(form.bottom, variable)


def _degree_of(monomial: polynomials.Monomial, variable: str) -> Fraction:
    return dict(monomial).get(("symbol", variable), Fraction(0))


def _clear(poly: Poly, variable: str) -> Poly:
    """Multiply by the power of the variable that makes all exponents natural."""
    lowest = min((_degree_of(monomial, variable) for monomial in poly), default=Fraction(0))
    if lowest >= 0:
        return poly
    shift = polynomials.power_of(("symbol", variable), -lowest)
    return polynomials.multiply(poly, shift, polynomials.Work(10_000))


def _zeros_of_sum(poly: Poly, variable: str) -> list[Node]:
    coefficients: dict[int, Node] = {}
    for monomial, coefficient in poly.items():
        degree = _degree_of(monomial, variable)
        if degree.denominator != 1 or degree > _MAX_DEGREE:
            raise Unreadable("is no polynomial")
        factors = [number(coefficient)]
        for atom, exponent in monomial:
            if atom[0] == "symbol":
                continue
            factors.append(Node("power", (_constant(atom), number(exponent))))
        term = Node("multiply", tuple(factors))
        before = coefficients.get(int(degree))
        coefficients[int(degree)] = term if before is None else Node("add", (before, term))
    highest = max(coefficients, default=0)
    if highest == 0:
        return []
    ordered = [coefficients.get(k, ZERO) for k in range(highest + 1)]
    if highest <= 2:
        return _quadratic(ordered)
    if any(atom[0] != "symbol" for monomial in poly for atom, _ in monomial):
        raise Unreadable("is a polynomial of high degree")
    from megatron_rl.math_answers.algebra.sympy_proof import real_roots

    return real_roots([poly_coefficient(poly, variable, k) for k in range(highest, -1, -1)])


def poly_coefficient(poly: Poly, variable: str, degree: int) -> Fraction:
    """Return the rational coefficient of a power of the variable."""
    key = frozenset([(("symbol", variable), Fraction(degree))]) if degree else frozenset()
    return poly.get(key, Fraction(0))


def _constant(atom: tuple) -> Node:
    if atom[0] == "prime":
        return number(atom[1])
    if atom[0] in {"pi", "e", "i"}:
        return Node(atom[0])
    raise Unreadable("has a coefficient of another kind")


def _quadratic(coefficients: list[Node]) -> list[Node]:
    if len(coefficients) == 2:
        return [Node("negative", (Node("divide", (coefficients[0], coefficients[1])),))]
    constant, linear, leading = coefficients
    product = Node("multiply", (number(4), leading, constant))
    discriminant = minus(Node("power", (linear, number(2))), product)
    form = form_of(discriminant)
    if form is not None and form.top and real_value(discriminant) < 0:
        return []
    root = Node("root", (discriminant, number(2)))
    twice = Node("multiply", (number(2), leading))
    return [
        Node("divide", (Node("add", (Node("negative", (linear,)), signed)), twice))
        for signed in (root, Node("negative", (root,)))
    ]


def fold(sets: list[RealSet], join: Callable[[RealSet, RealSet], RealSet]) -> RealSet:
    """Return the sets joined from the first to the last."""
    total = sets[0]
    for each in sets[1:]:
        total = join(total, each)
    return total


def as_real_set(answer: Answer) -> RealSet | None:
    """Return the set of real numbers that an answer may be read as, None where it is none."""
    if isinstance(answer, RealSet):
        return answer
    if isinstance(answer, Ordered):
        if len(answer.items) != 2 or {answer.opening, answer.closing} - set("()[]"):
            return None
        ends = [i.formula for i in answer.items if isinstance(i, Quantity) and i.unit is None]
        if len(ends) != 2:
            return None
        found = make_interval(ends[0], ends[1], answer.opening == "(", answer.closing == ")")
        # (3, -2) is a point of the plane: every such pair would be the empty set.
        return None if is_surely_empty(found) else found
    if isinstance(answer, Quantity):
        return None if answer.unit or is_infinite(answer.formula) else make_point(answer.formula)
    if isinstance(answer, Collection):
        if answer.is_set and any(isinstance(item, RealSet | Ordered) for item in answer.items):
            return None  # a set of sets or of points
        parts = [as_real_set(item) for item in answer.items]
        known = [part for part in parts if part is not None]
        names = {part.variable for part in known if part.variable is not None}
        is_whole = len(known) == len(parts) and len(names) <= 1
        return fold(known, union) if known and is_whole else None
    if isinstance(answer, Definition):
        inner = as_real_set(answer.value)
        return None if inner is None else RealSet(pieces=inner.pieces, variable=answer.name)
    if isinstance(answer, Comparison):
        return solve(answer)
    return None
