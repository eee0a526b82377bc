"""Functions of normal forms: logarithms by prime factors, trigonometry at the usual angles."""

import math
from collections.abc import Callable
from fractions import Fraction

from megatron_rl.math_answers.algebra import polynomials
from megatron_rl.math_answers.algebra.form import (
    ONE,
    Form,
    FormField,
    freeze,
    monomial_order,
    negative,
    of_atom,
    of_number,
    rational_value,
)
from megatron_rl.math_answers.algebra.powers import power, rational_power
from megatron_rl.math_answers.algebra.sines import exact_cosine, exact_sine
from megatron_rl.math_answers.tree import TooLarge, Undefined

_HALF = Fraction(1, 2)
_ODD = frozenset({"sin", "tan", "cot", "csc", "arcsin", "arctan", "sinh", "tanh", "sgn"})
_EVEN = frozenset({"cos", "sec", "cosh", "abs"})


def apply_function(field: FormField, name: str, args: list[Form]) -> Form:
    """Return the normal form of a function of normal forms.

    Raises:
        TooLarge: there is no rule for the function.
        Undefined: the function has no value there.
    """
    if name in {"max", "min"} and len(args) == 2:
        return _larger_or_smaller(field, name, args)
    if name in _SEVERAL:
        return _of_rationals(name, args)
    if len(args) != 1:
        raise TooLarge(f"{name} of several arguments")
    rule = _RULES.get(name)
    found = None if rule is None else rule(field, args[0])
    return _opaque(field, name, args[0]) if found is None else found


def _turns(form: Form) -> Fraction | None:
    """Return q where the form is q * pi."""
    if not form.top:
        return Fraction(0)
    if form.bottom != ONE.top or len(form.top) != 1:
        return None
    ((monomial, coefficient),) = form.top.items()
    return coefficient if dict(monomial) == {("pi",): 1} else None


def _sin(field: FormField, form: Form) -> Form | None:
    turns = _turns(form)
    return None if turns is None else exact_sine(field, turns)


def _cos(field: FormField, form: Form) -> Form | None:
    turns = _turns(form)
    return None if turns is None else exact_cosine(field, turns)


def _ratio(top: str, bottom: str) -> Callable[[FormField, Form], Form]:
    def rule(field: FormField, form: Form) -> Form:
        parts = [ONE if f == "" else apply_function(field, f, [form]) for f in (top, bottom)]
        return field.times(parts[0], field.inverse(parts[1]))

    return rule


def _ln(field: FormField, form: Form) -> Form | None:
    """Return a logarithm of a product of constants as a sum over its factors."""
    if not form.top:
        raise Undefined("logarithm of zero")
    if form.bottom != ONE.top or len(form.top) != 1:
        return None
    ((monomial, coefficient),) = form.top.items()
    if coefficient < 0 or any(atom[0] not in {"prime", "e", "pi"} for atom, _ in monomial):
        return _of_exponential(coefficient, monomial)
    if max(coefficient.numerator.bit_length(), coefficient.denominator.bit_length()) > 4000:
        raise TooLarge("logarithm of a huge number")
    field.work.spend(1000)
    exponents: dict[tuple, Fraction] = dict(monomial)
    for part, sign in ((coefficient.numerator, 1), (coefficient.denominator, -1)):
        for prime, times in polynomials.factor_integer(part).items() if part > 1 else ():
            atom = ("prime", prime)
            exponents[atom] = exponents.get(atom, Fraction(0)) + sign * times
    total = of_number(0)
    for atom, exponent in exponents.items():
        if atom[0] == "e":
            total = field.plus(total, of_number(exponent))
            continue
        inner = of_number(atom[1]) if atom[0] == "prime" else of_atom("pi")
        total = field.plus(total, field.times(of_number(exponent), of_atom("ln", freeze(inner))))
    return total


def _of_exponential(coefficient: Fraction, monomial: frozenset) -> Form | None:
    """Return ln(e^x) as x."""
    if coefficient != 1 or len(monomial) != 1:
        return None
    ((atom, exponent),) = monomial
    if atom[0] != "exponential" or atom[1] != freeze(of_atom("e")):
        return None
    if ("i",) in dict(atom[2]):
        return None
    return Form({atom[2]: exponent}, ONE.top)


def _abs(field: FormField, form: Form) -> Form | None:
    value = rational_value(form)
    if value is not None:
        return of_number(abs(value))
    if form.bottom != ONE.top or len(form.top) != 1:
        return _abs_of_complex(field, form)
    ((monomial, coefficient),) = form.top.items()
    outside = {p for p in monomial if p[0][0] in {"prime", "pi", "e", "abs"}}
    inside = monomial - outside - {(("i",), Fraction(1))}
    result = Form({frozenset(outside): abs(coefficient)}, ONE.top)
    for atom, exponent in inside:
        if exponent.denominator == 1 and exponent % 2 == 0:
            factor = Form(polynomials.power_of(atom, exponent), ONE.top)
        else:
            key = freeze(Form(polynomials.power_of(atom), ONE.top))
            factor = Form(polynomials.power_of(("abs", key), exponent), ONE.top)
        result = field.times(result, factor)
    return result


def _conjugate(_: FormField, form: Form) -> Form | None:
    """Return the conjugate of a form of real atoms and i, None of other forms."""
    atoms = {atom[0] for poly in form for monomial in poly for atom, _ in monomial}
    if not atoms <= {"i", "prime", "pi", "e", "symbol"}:
        return None
    parts = ({m: -c if ("i",) in dict(m) else c for m, c in poly.items()} for poly in form)
    return Form(*parts)


def _abs_of_complex(field: FormField, form: Form) -> Form | None:
    """Return |a + bi| for real constants a and b."""
    atoms = {atom for monomial in form.top for atom, _ in monomial}
    if ("i",) not in atoms or any(atom[0] not in {"i", "prime", "pi"} for atom in atoms):
        return None
    if form.bottom != ONE.top:
        return None
    conjugate = _conjugate(field, form)
    return None if conjugate is None else rational_power(field, field.times(form, conjugate), _HALF)


def _rounded(function: Callable[[Fraction], int]) -> Callable[[FormField, Form], Form | None]:
    def rule(_: FormField, form: Form) -> Form | None:
        value = rational_value(form)
        return None if value is None else of_number(function(value))

    return rule


def _inverse_of(values: dict[str, Fraction]) -> Callable[[FormField, Form], Form | None]:
    def rule(field: FormField, form: Form) -> Form | None:
        value = rational_value(form)
        square = rational_value(field.times(form, form)) if value is None else value**2
        if square is None or (form.top and len(form.top) != 1):
            return None
        turns = values.get(str(square))
        if turns is None:
            return None
        is_negative = bool(form.top) and next(iter(form.top.values())) < 0
        signed = -turns if is_negative else turns
        return field.times(of_number(signed), of_atom("pi"))

    return rule


def _arccos(field: FormField, form: Form) -> Form | None:
    sine = _RULES["arcsin"](field, form)
    if sine is None:
        return None
    return field.plus(negative(sine), field.times(of_number(_HALF), of_atom("pi")))


def _hyperbolic(sign: int) -> Callable[[FormField, Form], Form]:
    def rule(field: FormField, form: Form) -> Form:
        grown = power(field, of_atom("e"), form)
        other = field.times(of_number(sign), field.inverse(grown))
        return field.times(of_number(_HALF), field.plus(grown, other))

    return rule


def _opaque(field: FormField, name: str, form: Form) -> Form:
    """Keep f(x) as an atom, with the sign of x taken out of odd and even functions."""
    if name in _ODD | _EVEN and form.top:
        leading = form.top[min(form.top, key=monomial_order)]
        if leading < 0:
            positive = of_atom(name, freeze(negative(form)))
            return negative(positive) if name in _ODD else positive
    return of_atom(name, freeze(form))


def _larger_or_smaller(field: FormField, name: str, args: list[Form]) -> Form:
    """Return max(a, b) as (a + b + |a - b|) / 2."""
    distance = apply_function(field, "abs", [field.plus(args[0], negative(args[1]))])
    signed = distance if name == "max" else negative(distance)
    return field.times(of_number(_HALF), field.plus(field.plus(args[0], args[1]), signed))


def _of_rationals(name: str, args: list[Form]) -> Form:
    values = [rational_value(arg) for arg in args]
    if any(value is None for value in values):
        raise TooLarge(f"{name} of formulas")
    known = [value for value in values if value is not None]
    if name in {"max", "min"}:
        return of_number(max(known) if name == "max" else min(known))
    if any(value.denominator != 1 for value in known):
        raise Undefined(f"{name} of fractions")
    whole = [int(value) for value in known]
    return of_number(math.gcd(*whole) if name == "gcd" else math.lcm(*whole))


_SEVERAL = frozenset({"gcd", "lcm", "max", "min"})
_SINES = {"0": Fraction(0), "1/4": Fraction(1, 6), "1/2": Fraction(1, 4), "3/4": Fraction(1, 3)}
_TANGENTS = {"0": Fraction(0), "1/3": Fraction(1, 6), "1": Fraction(1, 4), "3": Fraction(1, 3)}
_RULES: dict[str, Callable[[FormField, Form], Form | None]] = {
    "sin": _sin,
    "cos": _cos,
    "tan": _ratio("sin", "cos"),
    "cot": _ratio("cos", "sin"),
    "sec": _ratio("", "cos"),
    "csc": _ratio("", "sin"),
    "arcsin": _inverse_of(_SINES | {"1": _HALF}),
    "arctan": _inverse_of(_TANGENTS),
    "arccos": _arccos,
    "sinh": _hyperbolic(-1),
    "cosh": _hyperbolic(1),
    "tanh": _ratio("sinh", "cosh"),
    "ln": _ln,
    "abs": _abs,
    "conjugate": _conjugate,
    "floor": _rounded(math.floor),
    "ceil": _rounded(math.ceil),
}
