"""Quotients of polynomials as normal forms, and their arithmetic.

Sines, powers and functions of forms are built on it, each on those before; ``normal_form`` turns
formulas into forms with all of them.
"""

from fractions import Fraction
from typing import NamedTuple

from megatron_rl.math_answers.algebra import polynomials
from megatron_rl.math_answers.algebra.polynomials import UNIT, Monomial, Poly, Work
from megatron_rl.math_answers.tree import Undefined


class Form(NamedTuple):
    """A quotient of sums of products."""

    top: Poly
    bottom: Poly


def of_number(value: Fraction | int) -> Form:
    """Return the form of a rational number."""
    return Form(polynomials.constant(Fraction(value)), {UNIT: Fraction(1)})


def of_atom(*atom: object) -> Form:
    """Return the form of one atom."""
    return Form(polynomials.power_of(atom), {UNIT: Fraction(1)})


ONE = of_number(1)


def negative(form: Form) -> Form:
    """Return a form with the opposite sign."""
    return Form(polynomials.scale(form.top, Fraction(-1)), form.bottom)


def rational_value(form: Form) -> Fraction | None:
    """Return the rational number a form is, None when it is none."""
    top, bottom = polynomials.as_number(form.top), polynomials.as_number(form.bottom)
    return None if top is None or bottom is None else top / bottom


def freeze(form: Form) -> tuple[frozenset, frozenset]:
    """Return a hashable copy, to be part of an atom."""
    return frozenset(form.top.items()), frozenset(form.bottom.items())


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
    leading = bottom[min(bottom, key=monomial_order)]
    if leading != 1:
        top, bottom = (polynomials.scale(p, 1 / leading) for p in (top, bottom))
    if top and len(top) == len(bottom):
        ratio = top.get(next(iter(bottom)), Fraction(0)) / next(iter(bottom.values()))
        if ratio and top == polynomials.scale(bottom, ratio):
            return Form({UNIT: ratio}, {UNIT: Fraction(1)})
    return Form(top, bottom)


def monomial_order(monomial: Monomial) -> str:
    """Return a key that sorts monomials in the same way in every run."""
    return repr(sorted(map(repr, monomial)))


class FormField:
    """Operations in the field of forms, within one allowance of work."""

    def __init__(self, work: Work) -> None:
        self.work = work

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
