"""Functions in normal forms: logarithms by prime factors, trigonometry at the usual angles."""

import math
from collections.abc import Callable
from fractions import Fraction

from megatron_rl.math_answers.algebra import polynomials
from megatron_rl.math_answers.algebra.normal_form import (
    ONE,
    Form,
    Normalizer,
    freeze,
    of_atom,
    of_number,
    rational_value,
)
from megatron_rl.math_answers.algebra.polynomials import UNIT
from megatron_rl.math_answers.tree import TooLarge, Undefined

_HALF = Fraction(1, 2)
_ODD = frozenset({"sin", "tan", "cot", "csc", "arcsin", "arctan", "sinh", "tanh", "sgn"})
_EVEN = frozenset({"cos", "sec", "cosh", "abs"})


def apply_function(n: Normalizer, name: str, args: list[Form]) -> Form:
    """Return the normal form of a function of normal forms.

    Raises:
        TooLarge: the function is not known here.
        Undefined: it has no value there.
    """
    if name in {"max", "min"} and len(args) == 2:
        return _larger_or_smaller(n, name, args)
    if name in _SEVERAL:
        return _of_rationals(name, args)
    if len(args) != 1:
        raise TooLarge(f"{name} of several arguments")
    rule = _RULES.get(name)
    found = None if rule is None else rule(n, args[0])
    return _opaque(n, name, args[0]) if found is None else found


def exact_sine(n: Normalizer, turns: Fraction) -> Form | None:
    """Return sin(turns * pi) for multiples of 15 degrees, None for other angles."""
    turns %= 2
    if turns > 1:
        found = exact_sine(n, turns - 1)
        return None if found is None else _negate(found)
    if turns > _HALF:
        turns = 1 - turns
    if turns == Fraction(1, 10) or turns == Fraction(3, 10):
        sign = -1 if turns == Fraction(1, 10) else 1
        return n.plus(_root(n, 5, Fraction(1, 4)), of_number(Fraction(sign, 4)))
    twelfths = turns * 12
    if twelfths.denominator != 1:
        return None
    quarter = Fraction(1, 4)
    values: dict[int, Callable[[], Form]] = {
        0: lambda: of_number(0),
        1: lambda: n.plus(_root(n, 6, quarter), _root(n, 2, -quarter)),
        2: lambda: of_number(_HALF),
        3: lambda: _root(n, 2, _HALF),
        4: lambda: _root(n, 3, _HALF),
        5: lambda: n.plus(_root(n, 6, quarter), _root(n, 2, quarter)),
        6: lambda: ONE,
    }
    return values[int(twelfths)]()


def exact_cosine(n: Normalizer, turns: Fraction) -> Form | None:
    """Return cos(turns * pi) where the sine of the complement is known."""
    return exact_sine(n, _HALF - turns)


def _root(n: Normalizer, radicand: int, factor: Fraction) -> Form:
    from megatron_rl.math_answers.algebra.powers import rational_power

    return n.times(of_number(factor), rational_power(n, of_number(radicand), _HALF))


def _negate(form: Form) -> Form:
    return Form(polynomials.scale(form.top, Fraction(-1)), form.bottom)


def _turns(form: Form) -> Fraction | None:
    """Return q where the form is q * pi."""
    if not form.top:
        return Fraction(0)
    if form.bottom != ONE.top or len(form.top) != 1:
        return None
    ((monomial, coefficient),) = form.top.items()
    return coefficient if dict(monomial) == {("pi",): 1} else None


def _sin(n: Normalizer, form: Form) -> Form | None:
    turns = _turns(form)
    return None if turns is None else exact_sine(n, turns)


def _cos(n: Normalizer, form: Form) -> Form | None:
    turns = _turns(form)
    return None if turns is None else exact_cosine(n, turns)


def _ratio(top: str, bottom: str) -> Callable[[Normalizer, Form], Form]:
    def rule(n: Normalizer, form: Form) -> Form:
        parts = [ONE if f == "" else apply_function(n, f, [form]) for f in (top, bottom)]
        return n.times(parts[0], n.inverse(parts[1]))

    return rule


def _ln(n: Normalizer, form: Form) -> Form | None:
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
    n.work.spend(1000)
    exponents: dict[tuple, Fraction] = dict(monomial)
    for part, sign in ((coefficient.numerator, 1), (coefficient.denominator, -1)):
        for prime, times in polynomials.factor_integer(part).items() if part > 1 else ():
            atom = ("prime", prime)
            exponents[atom] = exponents.get(atom, Fraction(0)) + sign * times
    total = of_number(0)
    for atom, exponent in exponents.items():
        if atom[0] == "e":
            total = n.plus(total, of_number(exponent))
            continue
        inner = of_number(atom[1]) if atom[0] == "prime" else of_atom("pi")
        total = n.plus(total, n.times(of_number(exponent), of_atom("ln", freeze(inner))))
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


def _abs(n: Normalizer, form: Form) -> Form | None:
    value = rational_value(form)
    if value is not None:
        return of_number(abs(value))
    if form.bottom != ONE.top or len(form.top) != 1:
        return _abs_of_complex(n, form)
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
        result = n.times(result, factor)
    return result


def _conjugate(_: Normalizer, form: Form) -> Form | None:
    """Return the conjugate of what is made of real atoms and i."""
    atoms = {atom[0] for poly in form for monomial in poly for atom, _ in monomial}
    if not atoms <= {"i", "prime", "pi", "e", "symbol"}:
        return None
    parts = ({m: -c if ("i",) in dict(m) else c for m, c in poly.items()} for poly in form)
    return Form(*parts)


def _abs_of_complex(n: Normalizer, form: Form) -> Form | None:
    """Return |a + bi| for real constants a and b."""
    atoms = {atom for monomial in form.top for atom, _ in monomial}
    if ("i",) not in atoms or any(atom[0] not in {"i", "prime", "pi"} for atom in atoms):
        return None
    if form.bottom != ONE.top:
        return None
    from megatron_rl.math_answers.algebra.powers import rational_power

    conjugate = _conjugate(n, form)
    return None if conjugate is None else rational_power(n, n.times(form, conjugate), _HALF)


def _rounded(function: Callable[[Fraction], int]) -> Callable[[Normalizer, Form], Form | None]:
    def rule(_: Normalizer, form: Form) -> Form | None:
        value = rational_value(form)
        return None if value is None else of_number(function(value))

    return rule


def _inverse_of(values: dict[str, Fraction]) -> Callable[[Normalizer, Form], Form | None]:
    def rule(n: Normalizer, form: Form) -> Form | None:
        value = rational_value(form)
        square = rational_value(n.times(form, form)) if value is None else value**2
        if square is None or (form.top and len(form.top) != 1):
            return None
        turns = values.get(str(square))
        if turns is None:
            return None
        is_negative = bool(form.top) and next(iter(form.top.values())) < 0
        signed = -turns if is_negative else turns
        return n.times(of_number(signed), of_atom("pi"))

    return rule


def _arccos(n: Normalizer, form: Form) -> Form | None:
    sine = _RULES["arcsin"](n, form)
    return None if sine is None else n.plus(_negate(sine), n.times(of_number(_HALF), of_atom("pi")))


def _hyperbolic(sign: int) -> Callable[[Normalizer, Form], Form]:
    def rule(n: Normalizer, form: Form) -> Form:
        from megatron_rl.math_answers.algebra.powers import power

        grown = power(n, of_atom("e"), form)
        other = n.times(of_number(sign), n.inverse(grown))
        return n.times(of_number(_HALF), n.plus(grown, other))

    return rule


def _opaque(n: Normalizer, name: str, form: Form) -> Form:
    """Keep f(x) as an atom, with the sign of x taken out of odd and even functions."""
    if name in _ODD | _EVEN and form.top:
        leading = form.top[min(form.top, key=lambda monomial: repr(sorted(map(repr, monomial))))]
        if leading < 0:
            positive = of_atom(name, freeze(_negate(form)))
            return _negate(positive) if name in _ODD else positive
    return of_atom(name, freeze(form))


def _larger_or_smaller(n: Normalizer, name: str, args: list[Form]) -> Form:
    """Return max(a, b) as (a + b + |a - b|) / 2."""
    apart = apply_function(n, "abs", [n.plus(args[0], _negate(args[1]))])
    signed = apart if name == "max" else _negate(apart)
    return n.times(of_number(_HALF), n.plus(n.plus(args[0], args[1]), signed))


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
_RULES: dict[str, Callable[[Normalizer, Form], Form | None]] = {
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
__all__ = ["UNIT", "apply_function", "exact_cosine", "exact_sine"]
