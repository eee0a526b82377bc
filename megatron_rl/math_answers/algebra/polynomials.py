"""Polynomials over the rationals: the exact arithmetic behind normal forms.

A ``Poly`` maps a monomial to its coefficient. A monomial is a set of (atom, exponent) pairs, where
an atom is a tuple whose first entry is its kind: ``("prime", 2)`` with an exponent in (0, 1),
``("i",)``, ``("pi",)``, ``("e",)``, ``("symbol", "x")`` and others with any rational exponent. So
sqrt(12) x is {{(("prime", 3), 1/2), (("symbol", "x"), 1)}: 2}. Roots of different primes are
linearly independent over the rationals, which makes the form of a number unique.
"""

from collections.abc import Iterable
from fractions import Fraction
from typing import TypeAlias

from megatron_rl.math_answers.tree import TooLarge

Atom: TypeAlias = tuple
Monomial: TypeAlias = frozenset[tuple[Atom, Fraction]]
Poly: TypeAlias = dict[Monomial, Fraction]

UNIT: Monomial = frozenset()
MAX_BITS = 100_000
_MAX_TERMS = 2_000
_MAX_TRIALS = 3_000


class Work:
    """Allowance of exact arithmetic; a unit is about a microsecond."""

    def __init__(self, units: int) -> None:
        self._left = units

    def spend(self, units: int) -> None:
        """Take ``units``.

        Raises:
            TooLarge: nothing is left.
        """
        self._left -= units
        if self._left < 0:
            raise TooLarge("needs too much work")


def constant(value: Fraction) -> Poly:
    """Return a number."""
    return {UNIT: value} if value else {}


def power_of(atom: Atom, exponent: Fraction = Fraction(1)) -> Poly:
    """Return an atom to a power."""
    return {frozenset([(atom, exponent)]): Fraction(1)} if exponent else constant(Fraction(1))


def as_number(poly: Poly) -> Fraction | None:
    """Return the rational number a sum is, None when it is none."""
    if not poly:
        return Fraction(0)
    return poly.get(UNIT) if len(poly) == 1 else None


def scale(poly: Poly, factor: Fraction) -> Poly:
    """Return ``factor * poly``."""
    return {m: c * factor for m, c in poly.items()} if factor else {}


def add(left: Poly, right: Poly, work: Work) -> Poly:
    """Return ``left + right``."""
    work.spend(1 + len(right))
    total = dict(left)
    for monomial, coefficient in right.items():
        value = total.get(monomial, 0) + coefficient
        if value:
            total[monomial] = Fraction(value)
            _check_size(value)
        else:
            total.pop(monomial, None)
    if len(total) > _MAX_TERMS:
        raise TooLarge("has too many terms")
    return total


def multiply(left: Poly, right: Poly, work: Work) -> Poly:
    """Return ``left * right``."""
    if len(left) == 1 and UNIT in left and len(right) == 1 and UNIT in right:
        work.spend(1)
        value = left[UNIT] * right[UNIT]
        _check_size(value)
        return {UNIT: value}
    work.spend(1 + 4 * len(left) * len(right))
    total: Poly = {}
    extra: list[Poly] = []
    for left_monomial, left_coefficient in left.items():
        for right_monomial, right_coefficient in right.items():
            coefficient = left_coefficient * right_coefficient
            _check_size(coefficient)
            if not left_monomial or not right_monomial:
                monomial = left_monomial or right_monomial
            else:
                factor, monomial, sums = _join(left_monomial, right_monomial)
                coefficient *= factor
                if sums:
                    product = {monomial: coefficient}
                    for each in sums:
                        product = multiply(product, each, work)
                    extra.append(product)
                    continue
            total[monomial] = total.get(monomial, Fraction(0)) + coefficient
    total = {m: c for m, c in total.items() if c}
    for product in extra:
        total = add(total, product, work)
    if len(total) > _MAX_TERMS:
        raise TooLarge("has too many terms")
    return total


def raise_to(poly: Poly, exponent: int, work: Work) -> Poly:
    """Return ``poly ** exponent`` for an exponent >= 0."""
    if len(poly) == 1:
        ((monomial, coefficient),) = poly.items()
        size = max(coefficient.numerator.bit_length(), coefficient.denominator.bit_length())
        if (size - (size == 1)) * exponent > MAX_BITS:
            raise TooLarge("has too many digits")
        work.spend(1 + size * exponent // 1000)
        return multiply({UNIT: coefficient**exponent}, monomial_power(monomial, exponent), work)
    if exponent > 200:
        raise TooLarge("expands to too many terms")
    result, square = constant(Fraction(1)), poly
    while exponent:
        if exponent & 1:
            result = multiply(result, square, work)
        exponent >>= 1
        if exponent:
            square = multiply(square, square, work)
    return result


def monomial_power(monomial: Iterable[tuple[Atom, Fraction]], exponent: int | Fraction) -> Poly:
    """Return a product of atoms to a rational power; exponents are multiplied as they are."""
    coefficient, pairs, sums = _reduce({a: e * exponent for a, e in monomial})
    assert not sums or exponent == int(exponent), "only whole powers of roots are expanded"
    result = {pairs: coefficient}
    for each in sums:
        result = multiply(result, each, Work(10_000))
    return result


def _join(left: Monomial, right: Monomial) -> tuple[Fraction, Monomial, list[Poly]]:
    exponents = dict(left)
    for atom, exponent in right:
        exponents[atom] = exponents.get(atom, Fraction(0)) + exponent
    return _reduce(exponents)


def _reduce(exponents: dict[Atom, Fraction]) -> tuple[Fraction, Monomial, list[Poly]]:
    """Return the rational factor, the monomial with canonical exponents and the sums set free."""
    factor, sums, pairs = Fraction(1), [], []
    for atom, exponent in exponents.items():
        kind = atom[0]
        if kind == "prime":
            whole = exponent.__floor__()
            if whole:
                if abs(whole) * atom[1].bit_length() > MAX_BITS:
                    raise TooLarge("has too many digits")
                factor *= Fraction(atom[1]) ** whole
                exponent -= whole
        elif kind == "i" and exponent.denominator == 1:
            exponent = Fraction(int(exponent) % 4)
            if exponent >= 2:
                factor, exponent = -factor, exponent - 2
        elif kind == "root" and abs(exponent) >= 1:
            # A root of a sum, kept as an atom, comes back as the sum when squared.
            whole = int(exponent)
            if whole > 0:
                if whole > 8:
                    raise TooLarge("expands to too many terms")
                sums.extend([dict(atom[1])] * whole)
                exponent -= whole
        if exponent:
            pairs.append((atom, exponent))
    return factor, frozenset(pairs), sums


def _check_size(value: Fraction | int) -> None:
    if value.numerator.bit_length() > MAX_BITS or value.denominator.bit_length() > MAX_BITS:
        raise TooLarge("has too many digits")


def factor_integer(value: int) -> dict[int, int]:
    """Return prime powers of ``value`` > 0; a large part without small factors stays whole."""
    factors: dict[int, int] = {}
    divisor = 2
    while divisor <= _MAX_TRIALS and divisor * divisor <= value:
        while value % divisor == 0:
            factors[divisor] = factors.get(divisor, 0) + 1
            value //= divisor
        divisor += 1 if divisor == 2 else 2
    if value > 1:
        for exponent in (2, 3):
            root = _integer_root(value, exponent)
            if root is not None:
                factors[root] = factors.get(root, 0) + exponent
                return factors
        factors[value] = factors.get(value, 0) + 1
    return factors


def _integer_root(value: int, exponent: int) -> int | None:
    if value.bit_length() > 4000:
        return None
    low, high = 1, 1 << (value.bit_length() // exponent + 1)
    while low < high:
        middle = (low + high + 1) // 2
        if middle**exponent <= value:
            low = middle
        else:
            high = middle - 1
    return low if low**exponent == value else None
