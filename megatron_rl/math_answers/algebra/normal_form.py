"""Normal forms of formulas: quotients of sums of products, compared by cross products.

A part without a simpler form, such as sin(1), is an atom. Two formulas are equal if their cross
products agree, and different if these differ and all atoms are plain.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from megatron_rl.math_answers.algebra import polynomials
from megatron_rl.math_answers.algebra.form import (
    Form,
    FormField,
    freeze,
    negative,
    of_atom,
    of_number,
    rational_value,
)
from megatron_rl.math_answers.algebra.functions import apply_function
from megatron_rl.math_answers.algebra.polynomials import Atom, Work
from megatron_rl.math_answers.algebra.powers import power
from megatron_rl.math_answers.tree import Node, TooLarge, Undefined

_UNITS_OF_WORK = 300_000
_MAX_FACTORIAL = 3_000
# Beyond the square of the largest divisor that is tried, a factor may not be prime.
_MAX_SURE_PRIME = 9_000_000
_PLAIN = frozenset({"prime", "symbol", "i"})
_TRANSCENDENTAL = frozenset({"pi", "e", "ln"})


def normal_form(node: Node) -> Form:
    """Return the normal form of a formula.

    Raises:
        TooLarge: the form has more digits or terms than the limits allow.
        Undefined: the formula divides by zero.
    """
    return _form(FormField(Work(_UNITS_OF_WORK)), node)


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
    """Return whether all atoms are plain: then another form is another value."""
    kinds = {_kind_of(atom) for poly in form for monomial in poly for atom, _ in monomial}
    return kinds <= _PLAIN or (len(kinds - _PLAIN) == 1 and kinds - _PLAIN <= _TRANSCENDENTAL)


def _kind_of(atom: Atom) -> str:
    """Return an atom's kind; logarithms of formulas and unfactored numbers are opaque."""
    if atom[0] == "prime" and atom[1] >= _MAX_SURE_PRIME:
        return "opaque"
    if atom[0] == "ln" and any(monomial for monomial, _ in atom[1][0]):
        return "opaque"
    return atom[0]


def _form(field: FormField, node: Node) -> Form:
    field.work.spend(1)
    rule = _RULES.get(node.op)
    if rule is None:
        raise TooLarge(f"no rule of normal forms for {node.op}")
    return rule(field, node.args)


def _number(_: FormField, args: tuple) -> Form:
    return of_number(args[0])


def _symbol(_: FormField, args: tuple) -> Form:
    return of_atom("symbol", args[0])


def _add(field: FormField, args: tuple) -> Form:
    total = _form(field, args[0])
    for arg in args[1:]:
        total = field.plus(total, _form(field, arg))
    return total


def _multiply(field: FormField, args: tuple) -> Form:
    product = _form(field, args[0])
    for arg in args[1:]:
        product = field.times(product, _form(field, arg))
    return product


def _negative(field: FormField, args: tuple) -> Form:
    return negative(_form(field, args[0]))


def _divide(field: FormField, args: tuple) -> Form:
    return field.times(_form(field, args[0]), field.inverse(_form(field, args[1])))


def _percent(field: FormField, args: tuple) -> Form:
    return field.times(_form(field, args[0]), of_number(Fraction(1, 100)))


def _degree(field: FormField, args: tuple) -> Form:
    radians = field.times(of_atom("pi"), of_number(Fraction(1, 180)))
    return field.times(_form(field, args[0]), radians)


def _factorial(field: FormField, args: tuple) -> Form:
    form = _form(field, args[0])
    value = rational_value(form)
    if value is None:
        return of_atom("factorial", freeze(form))
    if value.denominator != 1 or value < 0:
        raise Undefined("factorial of a number that is not natural")
    if value > _MAX_FACTORIAL:
        raise TooLarge("a huge factorial")
    return of_number(math.factorial(int(value)))


def _binomial(field: FormField, args: tuple) -> Form:
    forms = _form(field, args[0]), _form(field, args[1])
    top, bottom = rational_value(forms[0]), rational_value(forms[1])
    if top is None or bottom is None:
        return of_atom("binomial", freeze(forms[0]), freeze(forms[1]))
    if top.denominator != 1 or bottom.denominator != 1 or top < 0:
        raise TooLarge("a generalised binomial coefficient")
    if not 0 <= bottom <= top:
        return of_number(0)
    if top > _MAX_FACTORIAL:
        raise TooLarge("a huge binomial coefficient")
    return of_number(math.comb(int(top), int(bottom)))


def _modulo(field: FormField, args: tuple) -> Form:
    top, bottom = (rational_value(_form(field, arg)) for arg in args)
    if top is None or bottom is None:
        raise TooLarge("a symbolic remainder")
    if not bottom:
        raise Undefined("division by zero")
    return of_number(top % bottom)


def _power(field: FormField, args: tuple) -> Form:
    return power(field, _form(field, args[0]), _form(field, args[1]))


def _root(field: FormField, args: tuple) -> Form:
    return power(field, _form(field, args[0]), field.inverse(_form(field, args[1])))


def _function(field: FormField, args: tuple) -> Form:
    return apply_function(field, args[0], [_form(field, arg) for arg in args[1:]])


_RULES: dict[str, Callable[[FormField, tuple], Form]] = {
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
