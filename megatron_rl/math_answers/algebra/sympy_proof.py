"""Proofs by SymPy: the slow path of equality, under a budget of steps instead of a clock.

Import this module when it is first needed: importing SymPy takes a third of a second. Expressions
are built from formula trees of bounded size, never from text.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import sympy
from sympy.polys.polyerrors import BasePolynomialError

from megatron_rl.math_answers.algebra.step_budget import OutOfSteps, within_steps
from megatron_rl.math_answers.tree import Node, TooLarge, Unreadable, count_nodes, number

# Raised by SymPy where input is well formed but has no meaning, or no method applies.
_UNDECIDABLE = (
    ArithmeticError,
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
    BasePolynomialError,
)
_MAX_STEPS = 1_500_000
_MAX_EXPONENT = 1_000
_MAX_DIGITS = 3_000
_MAX_BITS = 100_000
_MAX_NODES = 400
_DIGITS_OF_ZEROS = 60


def is_proved_equal(left: Node, right: Node, *, sign: str = "positive") -> bool:
    """Return whether SymPy proves two formulas equal for variables of a sign, or real ones."""
    try:
        return within_steps(
            _MAX_STEPS, lambda: _prove(to_sympy(left, sign=sign), to_sympy(right, sign=sign))
        )
    except (OutOfSteps, TooLarge, *_UNDECIDABLE):
        return False


def try_proof(left: sympy.Expr, right: sympy.Expr) -> bool:
    """Return whether the difference of two SymPy expressions is proved to vanish."""
    try:
        return within_steps(_MAX_STEPS, lambda: _prove(left, right))
    except (OutOfSteps, *_UNDECIDABLE):
        return False


def _prove(left: sympy.Expr, right: sympy.Expr) -> bool:
    difference = left - right
    if difference == 0:
        return True
    if difference.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo, sympy.Float):
        return False
    if not difference.free_symbols:
        # equals() uses numbers only to refute; it confirms by simplification and algebra.
        return difference.equals(0) is True
    return any(attempt(difference) == 0 for attempt in _ATTEMPTS)


def _factor_roots(expression: sympy.Expr) -> sympy.Expr:
    """Return the formula with |x - 3| for the root of x^2 - 6x + 9."""
    return sympy.expand(
        expression.replace(
            lambda part: part.is_Pow and part.exp.is_Rational and part.exp.q == 2,
            lambda part: sympy.Pow(sympy.factor(part.base), part.exp),
        )
    )


_ATTEMPTS: tuple[Callable[[Any], Any], ...] = (
    sympy.expand,
    _factor_roots,
    sympy.trigsimp,
    lambda e: sympy.simplify(sympy.expand_log(e, force=True)),
    lambda e: sympy.simplify(e.rewrite(sympy.exp)),
    sympy.gammasimp,
)


def real_roots(coefficients: Sequence[Fraction]) -> list[Node]:
    """Return the real zeros of a rational polynomial, highest coefficient first.

    Raises:
        Unreadable: they cannot be written with square roots.
    """
    x = sympy.Symbol("x", real=True)

    def find() -> list[Node]:
        poly = sympy.Poly([sympy.Rational(c.numerator, c.denominator) for c in coefficients], x)
        found: list[Node] = []
        for factor, _ in poly.factor_list()[1]:
            real = [root for root in sympy.roots(factor) if root.is_real]
            if len(real) != factor.count_roots():
                raise Unreadable("has zeros without a closed form")
            found.extend(_from_sympy(root) for root in real)
        return found

    try:
        return within_steps(_MAX_STEPS, find)
    except (OutOfSteps, *_UNDECIDABLE) as error:
        raise Unreadable("has zeros that were not found") from error


def have_same_zeros(left: Node, right: Node) -> bool:
    """Return whether two polynomials are equal up to repeated factors and a constant."""

    def decide() -> bool:
        parts = [sympy.Poly(sympy.numer(sympy.together(to_sympy(node)))) for node in (left, right)]
        if parts[0].free_symbols != parts[1].free_symbols:
            return False
        first, second = (part.sqf_part().primitive()[1] for part in parts)
        second = sympy.Poly(second.as_expr(), *first.gens)
        return first == second or first == -second

    try:
        return bool(within_steps(_MAX_STEPS, decide))
    except (OutOfSteps, TooLarge, *_UNDECIDABLE):
        return False


def _from_sympy(expression: sympy.Expr) -> Node:
    if expression.is_Rational:
        return number(Fraction(int(expression.p), int(expression.q)))
    if expression.is_Add:
        return Node("add", tuple(_from_sympy(arg) for arg in expression.args))
    if expression.is_Mul:
        return Node("multiply", tuple(_from_sympy(arg) for arg in expression.args))
    if expression.is_Pow and expression.exp.is_Rational:
        return Node("power", (_from_sympy(expression.base), _from_sympy(expression.exp)))
    raise Unreadable("has zeros without a closed form")


def approximate_zeros(coefficients: Sequence[Fraction]) -> list[Fraction]:
    """Return the real zeros of a rational polynomial to sixty digits, highest coefficient first.

    Raises:
        TooLarge: they were not found.
    """
    x = sympy.Symbol("x")

    def find() -> list[Fraction]:
        poly = sympy.Poly([sympy.Rational(c.numerator, c.denominator) for c in coefficients], x)
        zeros = poly.sqf_part().nroots(n=_DIGITS_OF_ZEROS, maxsteps=200)
        return [Fraction(str(sympy.re(zero))) for zero in zeros if zero.is_real]

    try:
        return within_steps(_MAX_STEPS, find)
    except (OutOfSteps, *_UNDECIDABLE) as error:
        raise TooLarge("zeros that were not found") from error


def to_sympy(node: Node, *, sign: str = "positive") -> sympy.Expr:
    """Return the SymPy expression of a formula, with variables of a sign, or real ones.

    Raises:
        TooLarge: evaluating it would build absurd numbers, or SymPy has no counterpart.
    """
    if count_nodes(node) > _MAX_NODES:
        raise TooLarge("has too many parts")
    return _convert(node, sign)


def _convert(node: Node, sign: str) -> sympy.Expr:
    if node.op == "number":
        return _rational(node.args[0])
    if node.op == "bound":
        # With a capital, so that it meets no variable of the answer, and without a sign.
        return sympy.Symbol(f"Bound_{node.args[0]}", real=True)
    if node.op in _BINDING:
        return _BINDING[node.op](*(_convert(arg, sign) for arg in node.args))
    if node.op == "symbol":
        return sympy.Symbol(node.args[0], **{sign: True})
    if node.op in _CONSTANTS:
        return _CONSTANTS[node.op]
    if node.op == "function":
        rule = _FUNCTIONS.get(node.args[0])
        if rule is None:
            raise TooLarge(f"no counterpart of {node.args[0]}")
        return rule(*(_convert(arg, sign) for arg in node.args[1:]))
    operation = _OPERATIONS.get(node.op)
    if operation is None:
        raise TooLarge(f"no counterpart of {node.op}")
    return operation(*(_convert(arg, sign) for arg in node.args))


def _rational(value: Fraction) -> sympy.Rational:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > 4 * _MAX_DIGITS:
        raise TooLarge("has too many digits")
    return sympy.Rational(value.numerator, value.denominator)


def _power(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
    if base.is_number:
        if not exponent.is_number:
            return sympy.Pow(base, exponent)
        size = max(base.p.bit_length(), base.q.bit_length()) if base.is_Rational else 1
        exponent_size = abs(exponent.evalf(5))
        if exponent_size > _MAX_EXPONENT or exponent_size * size > _MAX_BITS:
            raise TooLarge("a huge exponent")
        if base.is_negative and exponent.is_Rational and exponent.q % 2 and exponent.q > 1:
            return (-1) ** int(exponent.p) * sympy.Pow(-base, exponent)
    elif exponent.is_number and abs(exponent.evalf(5)) > 100:
        raise TooLarge("a huge exponent")
    return sympy.Pow(base, exponent)


def _factorial(value: sympy.Expr) -> sympy.Expr:
    if value.is_number and abs(value.evalf(5)) > _MAX_EXPONENT:
        raise TooLarge("a huge factorial")
    return sympy.factorial(value)


def _binomial(top: sympy.Expr, bottom: sympy.Expr) -> sympy.Expr:
    if any(part.is_number and abs(part.evalf(5)) > _MAX_EXPONENT for part in (top, bottom)):
        raise TooLarge("a huge binomial coefficient")
    return sympy.binomial(top, bottom)


def _sum(body: sympy.Expr, k: sympy.Expr, low: sympy.Expr, high: sympy.Expr) -> sympy.Expr:
    ends = _numbers(low, high)
    is_long = any(end.is_finite and abs(end.evalf(5)) > _MAX_EXPONENT for end in ends)
    if is_long and not (body.is_polynomial(k) or _is_geometric(body, k)):
        # What sums up to a harmonic number or a zeta function is remembered term by term.
        raise TooLarge("a long sum")
    return sympy.Sum(body, (k, low, high)).doit()


def _is_geometric(body: sympy.Expr, k: sympy.Expr) -> bool:
    ratio = sympy.simplify(body.subs(k, k + 1) / body)
    return not ratio.has(k)


def _product(body: sympy.Expr, k: sympy.Expr, low: sympy.Expr, high: sympy.Expr) -> sympy.Expr:
    # A product over a long range is a factorial of its end.
    if any(end.is_finite and abs(end.evalf(5)) > _MAX_EXPONENT for end in _numbers(low, high)):
        raise TooLarge("a long product")
    return sympy.Product(body, (k, low, high)).doit()


def _numbers(*ends: sympy.Expr) -> list[sympy.Expr]:
    return [end for end in ends if end.is_number]


def _integral(body: sympy.Expr, x: sympy.Expr, low: sympy.Expr, high: sympy.Expr) -> sympy.Expr:
    found = sympy.integrate(body, (x, low, high))
    if found.has(sympy.Integral):
        raise TooLarge("an integral without a closed form")
    return found


_BINDING: dict[str, Callable[..., sympy.Expr]] = {
    "sum": _sum,
    "product": _product,
    "integral": _integral,
    "limit": sympy.limit,
}
_CONSTANTS = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "infinity": sympy.oo}
_OPERATIONS: dict[str, Callable[..., sympy.Expr]] = {
    "add": sympy.Add,
    "multiply": sympy.Mul,
    "negative": lambda a: -a,
    "divide": lambda a, b: a / b,
    "percent": lambda a: a / 100,
    "degree": lambda a: a * sympy.pi / 180,
    "power": _power,
    "root": lambda a, b: _power(a, 1 / b),
    "factorial": _factorial,
    "binomial": _binomial,
}
_FUNCTIONS: dict[str, Callable[..., sympy.Expr]] = {
    "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec,
    "csc": sympy.csc, "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan,
    "arccot": sympy.acot, "sinh": sympy.sinh, "cosh": sympy.cosh, "tanh": sympy.tanh,
    "coth": sympy.coth, "arcsinh": sympy.asinh, "arccosh": sympy.acosh, "arctanh": sympy.atanh,
    "ln": sympy.log, "abs": sympy.Abs, "floor": sympy.floor, "ceil": sympy.ceiling,
    "sgn": sympy.sign, "max": sympy.Max, "min": sympy.Min, "Re": sympy.re, "Im": sympy.im,
}  # fmt: skip
