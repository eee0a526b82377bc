"""Normal forms: a formula as a quotient of two sums of products, so that equal ones coincide.

What has no simpler exact form, such as sin(1), stays whole as an atom. Two formulas whose cross
products agree are equal; two that differ and hold only plain atoms are different.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from megatron_rl.math_answers.algebra import polynomials
from megatron_rl.math_answers.algebra.polynomials import UNIT, Atom, Monomial, Poly, Work
from megatron_rl.math_answers.tree import Node, TooLarge, Undefined

_UNITS_OF_WORK = 300_000
_LARGEST_FACTORIAL = 3_000
# Beyond the square of the largest divisor that is tried, a factor may not be prime.
_LARGEST_SURE_PRIME = 9_000_000
_PLAIN = frozenset({"prime", "symbol", "i"})
_TRANSCENDENTAL = frozenset({"pi", "e", "ln"})


class Form(NamedTuple):
    """A quotient of sums."""

    top: Poly
    bottom: Poly


def normal_form(node: Node) -> Form:
    """Return the normal form of a formula.

    Raises:
        TooLarge: it has more digits or terms than the limits allow.
        Undefined: it divides by zero.
    """
    return Normalizer(Work(_UNITS_OF_WORK)).form(node)


@lru_cache(maxsize=4096)
def form_of(node: Node) -> Form | None:
    """Return a formula's normal form, None where it would be too large.

    Raises:
        Undefined: it divides by zero.
    """
    try:
        return normal_form(node)
    except TooLarge:
        return None


def are_same_form(left: Form, right: Form) -> bool:
    """Return whether two quotients are equal."""
    if left == right:
        return True
    work = Work(_UNITS_OF_WORK)
    return polynomials.multiply(left.top, right.bottom, work) == polynomials.multiply(
        right.top, left.bottom, work
    )


def is_plain(form: Form) -> bool:
    """Return whether different plain forms are different values, so that nothing is left to try."""
    kinds = {_kind_of(atom) for poly in form for monomial in poly for atom, _ in monomial}
    return kinds <= _PLAIN or (len(kinds - _PLAIN) == 1 and kinds - _PLAIN <= _TRANSCENDENTAL)


def _kind_of(atom: Atom) -> str:
    """Return an atom's kind; logarithms of formulas and unfactored numbers are opaque."""
    if atom[0] == "prime" and atom[1] >= _LARGEST_SURE_PRIME:
        return "opaque"
    if atom[0] == "ln" and any(monomial for monomial, _ in atom[1][0]):
        return "opaque"
    return atom[0]


def rational_value(form: Form) -> Fraction | None:
    """Return the rational number a form is, None when it is none."""
    top, bottom = polynomials.as_number(form.top), polynomials.as_number(form.bottom)
    return None if top is None or bottom is None else top / bottom


def quotient(top: Poly, bottom: Poly, work: Work) -> Form:
    """Return ``top / bottom`` with a single product below moved up."""
    if not bottom:
        raise Undefined("division by zero")
    if len(bottom) == 1:
        ((monomial, coefficient),) = bottom.items()
        if any(atom[0] == "root" for atom, _ in monomial):
            return Form(top, bottom)
        if monomial:
            top = polynomials.multiply(top, polynomials.monomial_power(monomial, -1), work)
        return Form(polynomials.scale(top, 1 / coefficient), {UNIT: Fraction(1)})
    leading = bottom[min(bottom, key=_order)]
    if leading != 1:
        top, bottom = (polynomials.scale(p, 1 / leading) for p in (top, bottom))
    if top and len(top) == len(bottom):
        ratio = top.get(next(iter(bottom)), Fraction(0)) / next(iter(bottom.values()))
        if ratio and top == polynomials.scale(bottom, ratio):
            return Form({UNIT: ratio}, {UNIT: Fraction(1)})
    return Form(top, bottom)


def freeze(form: Form) -> tuple[frozenset, frozenset]:
    """Return a hashable copy, to be part of an atom."""
    return frozenset(form.top.items()), frozenset(form.bottom.items())


def _order(monomial: Monomial) -> str:
    return repr(sorted(map(repr, monomial)))


class Normalizer:
    """Computes normal forms within one allowance of work."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def form(self, node: Node) -> Form:
        """Return the normal form of a formula."""
        self.work.spend(1)
        rule = _RULES.get(node.op)
        if rule is None:
            raise TooLarge(f"no exact rule for {node.op}")
        return rule(self, node.args)

    def times(self, left: Form, right: Form) -> Form:
        """Return a product."""
        if len(left.bottom) == len(right.bottom) == 1 and left.bottom == right.bottom == ONE.top:
            return Form(polynomials.multiply(left.top, right.top, self.work), ONE.top)
        top = polynomials.multiply(left.top, right.top, self.work)
        bottom = polynomials.multiply(left.bottom, right.bottom, self.work)
        return quotient(top, bottom, self.work)

    def plus(self, left: Form, right: Form) -> Form:
        """Return a sum."""
        if left.bottom == right.bottom:
            top = polynomials.add(left.top, right.top, self.work)
            if left.bottom == ONE.top:
                return Form(top, ONE.top)
            return quotient(top, left.bottom, self.work)
        top = polynomials.add(
            polynomials.multiply(left.top, right.bottom, self.work),
            polynomials.multiply(right.top, left.bottom, self.work),
            self.work,
        )
        bottom = polynomials.multiply(left.bottom, right.bottom, self.work)
        return quotient(top, bottom, self.work)

    def inverse(self, form: Form) -> Form:
        """Return one over a form."""
        if not form.top:
            raise Undefined("division by zero")
        return quotient(form.bottom, form.top, self.work)

    def whole_power(self, form: Form, exponent: int) -> Form:
        """Return a form to an integer power."""
        if exponent < 0:
            form, exponent = self.inverse(form), -exponent
        return quotient(
            polynomials.raise_to(form.top, exponent, self.work),
            polynomials.raise_to(form.bottom, exponent, self.work),
            self.work,
        )


def of_number(value: Fraction | int) -> Form:
    """Return the form of a rational number."""
    return Form(polynomials.constant(Fraction(value)), {UNIT: Fraction(1)})


def of_atom(*atom: object) -> Form:
    """Return the form of one atom."""
    return Form(polynomials.power_of(atom), {UNIT: Fraction(1)})


ONE = of_number(1)


def _number(_: Normalizer, args: tuple) -> Form:
    return of_number(args[0])


def _symbol(_: Normalizer, args: tuple) -> Form:
    return of_atom("symbol", args[0])


def _add(n: Normalizer, args: tuple) -> Form:
    total = n.form(args[0])
    for arg in args[1:]:
        total = n.plus(total, n.form(arg))
    return total


def _multiply(n: Normalizer, args: tuple) -> Form:
    product = n.form(args[0])
    for arg in args[1:]:
        product = n.times(product, n.form(arg))
    return product


def _negative(n: Normalizer, args: tuple) -> Form:
    form = n.form(args[0])
    return Form(polynomials.scale(form.top, Fraction(-1)), form.bottom)


def _divide(n: Normalizer, args: tuple) -> Form:
    return n.times(n.form(args[0]), n.inverse(n.form(args[1])))


def _percent(n: Normalizer, args: tuple) -> Form:
    return n.times(n.form(args[0]), of_number(Fraction(1, 100)))


def _degree(n: Normalizer, args: tuple) -> Form:
    return n.times(n.form(args[0]), n.times(of_atom("pi"), of_number(Fraction(1, 180))))


def _factorial(n: Normalizer, args: tuple) -> Form:
    form = n.form(args[0])
    value = rational_value(form)
    if value is None:
        return of_atom("factorial", freeze(form))
    if value.denominator != 1 or value < 0:
        raise Undefined("factorial of what is no natural number")
    if value > _LARGEST_FACTORIAL:
        raise TooLarge("a huge factorial")
    return of_number(math.factorial(int(value)))


def _binomial(n: Normalizer, args: tuple) -> Form:
    forms = n.form(args[0]), n.form(args[1])
    top, bottom = rational_value(forms[0]), rational_value(forms[1])
    if top is None or bottom is None:
        return of_atom("binomial", freeze(forms[0]), freeze(forms[1]))
    if top.denominator != 1 or bottom.denominator != 1 or top < 0:
        raise TooLarge("a generalised binomial coefficient")
    if not 0 <= bottom <= top:
        return of_number(0)
    if top > _LARGEST_FACTORIAL:
        raise TooLarge("a huge binomial coefficient")
    return of_number(math.comb(int(top), int(bottom)))


def _modulo(n: Normalizer, args: tuple) -> Form:
    top, bottom = (rational_value(n.form(arg)) for arg in args)
    if top is None or bottom is None:
        raise TooLarge("a symbolic remainder")
    if not bottom:
        raise Undefined("division by zero")
    return of_number(top % bottom)


def _power(n: Normalizer, args: tuple) -> Form:
    from megatron_rl.math_answers.algebra.powers import power

    return power(n, n.form(args[0]), n.form(args[1]))


def _root(n: Normalizer, args: tuple) -> Form:
    from megatron_rl.math_answers.algebra.powers import power

    return power(n, n.form(args[0]), n.inverse(n.form(args[1])))


def _function(n: Normalizer, args: tuple) -> Form:
    from megatron_rl.math_answers.algebra.functions import apply_function

    return apply_function(n, args[0], [n.form(arg) for arg in args[1:]])


_RULES: dict[str, Callable[[Normalizer, tuple], Form]] = {
    "number": _number,
    "symbol": _symbol,
    "pi": lambda _, __: of_atom("pi"),
    "e": lambda _, __: of_atom("e"),
    "i": lambda _, __: of_atom("i"),
    "infinity": lambda _, __: of_atom("infinity"),
    "add": _add,
    "multiply": _multiply,
    "negative": _negative,
    "divide": _divide,
    "percent": _percent,
    "degree": _degree,
    "factorial": _factorial,
    "binomial": _binomial,
    "modulo": _modulo,
    "power": _power,
    "root": _root,
    "function": _function,
}
