"""Powers and roots of normal forms: real odd roots, |x| for the root of a square, denesting."""

import math
from fractions import Fraction

from megatron_rl.math_answers.algebra import polynomials
from megatron_rl.math_answers.algebra.form import (
    ONE,
    Form,
    FormField,
    freeze,
    negative,
    of_atom,
    of_number,
    rational_value,
)
from megatron_rl.math_answers.algebra.polynomials import MAX_BITS, UNIT, Poly
from megatron_rl.math_answers.algebra.sines import exact_cosine, exact_sine
from megatron_rl.math_answers.tree import TooLarge, Undefined

_MAX_EXPONENT = 100_000
_MAX_INDEX = 1000
_MAX_ROOTED_BITS = 4_000


def power(field: FormField, base: Form, exponent: Form) -> Form:
    """Return ``base ** exponent``.

    Raises:
        TooLarge: the value has too many digits or terms.
        Undefined: zero to a power that is not positive; zero to the zero is one.
    """
    value = rational_value(exponent)
    if value is not None:
        return rational_power(field, base, value)
    return _symbolic_power(field, base, exponent)


def rational_power(field: FormField, base: Form, exponent: Fraction) -> Form:
    """Return ``base ** exponent`` for a rational exponent, odd roots of negatives being real."""
    if not base.top:
        if exponent < 0:
            raise Undefined("division by zero")
        return ONE if exponent == 0 else of_number(0)
    if abs(exponent.numerator) > _MAX_EXPONENT or exponent.denominator > _MAX_INDEX:
        if rational_value(base) in {1, -1} and exponent.denominator == 1:
            return ONE if rational_value(base) == 1 or exponent % 2 == 0 else of_number(-1)
        return _huge_power(field, base, exponent)
    if exponent.denominator == 1:
        return field.whole_power(base, int(exponent))
    bottom = base.bottom
    if bottom != ONE.top:
        over = _root_of_sum(field, bottom, exponent)
        return field.times(_root_of_sum(field, base.top, exponent), field.inverse(over))
    return _root_of_sum(field, base.top, exponent)


def _huge_power(field: FormField, base: Form, exponent: Fraction) -> Form:
    """Return a power of a rational number as powers of primes that stay unevaluated."""
    value = rational_value(base)
    is_small = value is not None and max(value.numerator, value.denominator) < 10**12
    if value is None or value <= 0 or not is_small or exponent.numerator.bit_length() > 1000:
        raise TooLarge("a huge exponent")
    field.work.spend(1000)
    result = ONE
    for part, sign in ((value.numerator, 1), (value.denominator, -1)):
        for prime, times in polynomials.factor_integer(part).items() if part > 1 else ():
            power_of_prime = polynomials.power_of(("huge", prime), exponent * times * sign)
            result = field.times(result, Form(power_of_prime, ONE.top))
    return result


def _root_of_sum(field: FormField, poly: Poly, exponent: Fraction) -> Form:
    if len(poly) == 1:
        ((monomial, coefficient),) = poly.items()
        return _root_of_product(field, coefficient, monomial, exponent)
    if exponent.denominator == 2:
        denested = _denest(field, poly)
        if denested is not None:
            return field.whole_power(denested, exponent.numerator)
    content = _content(poly)
    if exponent.denominator % 2 and poly[min(poly, key=repr)] < 0:
        content = -content
    rest = polynomials.scale(poly, 1 / content)
    index = exponent.denominator
    if abs(exponent) > 8:
        raise TooLarge("a high power of a root of a sum")
    outer = _root_of_product(field, content, UNIT, exponent)
    if index == 2:
        # Squares of the root come back as the sum; see polynomials.
        inner = Form(
            polynomials.power_of(("root", frozenset(rest.items())), Fraction(1, 2)), ONE.top
        )
        whole = field.whole_power(Form(rest, ONE.top), int(exponent - Fraction(1, 2)))
        return field.times(outer, field.times(inner, whole))
    inner = of_atom("power", freeze(Form(rest, ONE.top)), Fraction(1, index))
    return field.times(outer, field.whole_power(inner, exponent.numerator))


def _root_of_product(
    field: FormField, coefficient: Fraction, monomial: frozenset, exponent: Fraction
) -> Form:
    is_even = exponent.denominator % 2 == 0
    result = _root_of_number(field, abs(coefficient), exponent)
    if coefficient < 0:
        if not is_even:
            result = field.times(result, of_number(-1 if exponent.numerator % 2 else 1))
        elif exponent.denominator == 2 and not any(atom[0] == "i" for atom, _ in monomial):
            result = field.times(result, field.whole_power(of_atom("i"), exponent.numerator))
        else:
            raise TooLarge("a root of a negative number")
    for atom, old in monomial:
        if atom[0] == "i":
            raise TooLarge("a root of a complex number")
        result = field.times(result, _root_of_atom(atom, old, exponent))
    return result


def _root_of_atom(atom: tuple, old: Fraction, exponent: Fraction) -> Form:
    new = old * exponent
    is_positive = atom[0] in {"prime", "pi", "e", "abs", "root"}
    was_square = old.denominator == 1 and old % 2 == 0
    if not is_positive and was_square and exponent.denominator % 2 == 0 and new.numerator % 2:
        atom = ("abs", freeze(Form(polynomials.power_of(atom), ONE.top)))
    if atom[0] == "root" and new.denominator not in {1, 2}:
        raise TooLarge("a root of a root")
    if atom[0] == "prime":
        return Form(polynomials.monomial_power([(atom, old)], exponent), ONE.top)
    return Form(polynomials.power_of(atom, new), ONE.top)


def _root_of_number(field: FormField, value: Fraction, exponent: Fraction) -> Form:
    if value == 1:
        return ONE
    digits = max(value.numerator.bit_length(), value.denominator.bit_length())
    if digits > _MAX_ROOTED_BITS or digits * abs(exponent) > MAX_BITS:
        raise TooLarge("a root of a huge number")
    field.work.spend(1000)
    result = ONE
    for part, sign in ((value.numerator, 1), (value.denominator, -1)):
        for prime, times in polynomials.factor_integer(part).items():
            pair = (("prime", prime), Fraction(times * sign))
            root = polynomials.monomial_power([pair], exponent)
            result = field.times(result, Form(root, ONE.top))
    return result


def _content(poly: Poly) -> Fraction:
    """Return the positive rational that makes the coefficients coprime integers."""
    numerators = math.gcd(*(c.numerator for c in poly.values()))
    denominators = math.lcm(*(c.denominator for c in poly.values()))
    return Fraction(numerators, denominators)


def _denest(field: FormField, poly: Poly) -> Form | None:
    """Return sqrt(a + b sqrt(c)) as a sum of two roots, None where that is not possible."""
    if len(poly) != 2 or UNIT not in poly:
        return None
    rational = poly[UNIT]
    surd = {monomial: c for monomial, c in poly.items() if monomial}
    if not all(atom[0] == "prime" for monomial in surd for atom, _ in monomial):
        return None
    square = polynomials.as_number(polynomials.multiply(surd, surd, field.work))
    if square is None or rational <= 0 or rational**2 < square:
        return None
    difference = _square_root(rational**2 - square)
    if difference is None:
        return None
    half = Fraction(1, 2)
    first = _root_of_number(field, (rational + difference) / 2, half)
    second = _root_of_number(field, (rational - difference) / 2, half)
    if next(iter(surd.values())) < 0:
        second = negative(second)
    return field.plus(first, second)


def _square_root(value: Fraction) -> Fraction | None:
    top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
    root = Fraction(top, bottom)
    return root if root**2 == value else None


def _symbolic_power(field: FormField, base: Form, exponent: Form) -> Form:
    """Split a power over the terms of its exponent: 2^(n+1) is 2 * 2^n."""
    if exponent.bottom != ONE.top:
        return of_atom("power", freeze(base), freeze(exponent))
    if rational_value(base) == 1:
        return ONE
    result = ONE
    for monomial, coefficient in exponent.top.items():
        if not monomial:
            result = field.times(result, rational_power(field, base, coefficient))
            continue
        result = field.times(result, _term_power(field, base, monomial, coefficient))
    return result


def _term_power(field: FormField, base: Form, monomial: frozenset, coefficient: Fraction) -> Form:
    if base == of_atom("e"):
        special = _power_of_e(field, monomial, coefficient)
        if special is not None:
            return special
    single = _single_product(base)
    if single is None:
        return _atom_power(freeze(base), monomial, coefficient)
    result = ONE
    factor, atoms = single
    if factor < 0:
        result = _atom_power(freeze(of_number(-1)), monomial, coefficient)
    for part, sign in ((abs(factor.numerator), 1), (factor.denominator, -1)):
        for prime, times in polynomials.factor_integer(part).items() if part > 1 else ():
            key = freeze(of_number(prime))
            result = field.times(result, _atom_power(key, monomial, coefficient * times * sign))
    for atom, exponent in atoms:
        key = freeze(of_atom(*atom) if atom[0] != "prime" else of_number(atom[1]))
        result = field.times(result, _atom_power(key, monomial, coefficient * exponent))
    return result


def _single_product(form: Form) -> tuple[Fraction, frozenset] | None:
    if form.bottom != ONE.top or len(form.top) != 1:
        return None
    ((monomial, coefficient),) = form.top.items()
    if max(coefficient.numerator.bit_length(), coefficient.denominator.bit_length()) > 200:
        return None
    return coefficient, monomial


def _atom_power(base: tuple, monomial: frozenset, coefficient: Fraction) -> Form:
    atom = ("exponential", base, monomial)
    return Form(polynomials.power_of(atom, coefficient), ONE.top)


def _power_of_e(field: FormField, monomial: frozenset, coefficient: Fraction) -> Form | None:
    """Return e to i pi times a rational, and e to a rational times a logarithm."""
    atoms = dict(monomial)
    if atoms == {("i",): 1, ("pi",): 1}:
        real, imaginary = exact_cosine(field, coefficient), exact_sine(field, coefficient)
        if real is None or imaginary is None:
            return None
        return field.plus(real, field.times(of_atom("i"), imaginary))
    if len(atoms) == 1:
        ((atom, exponent),) = atoms.items()
        if atom[0] == "ln" and exponent == 1:
            argument = Form(dict(atom[1][0]), dict(atom[1][1]))
            return rational_power(field, argument, coefficient)
    return None
