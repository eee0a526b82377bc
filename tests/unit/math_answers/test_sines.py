"""Exact sines against floating point."""

import math
from fractions import Fraction

import pytest

from megatron_rl.math_answers.algebra.form import Form, FormField
from megatron_rl.math_answers.algebra.polynomials import Work
from megatron_rl.math_answers.algebra.sines import exact_cosine, exact_sine

USUAL = [Fraction(k, 12) for k in range(-24, 49)] + [Fraction(k, 10) for k in range(1, 20, 2)]


def value_of(form: Form) -> float:
    assert set(form.bottom) == {frozenset()}
    return sum(
        coefficient * math.prod(atom[1] ** exponent for atom, exponent in monomial)
        for monomial, coefficient in form.top.items()
    )


@pytest.mark.parametrize("turns", USUAL, ids=str)
def test_an_exact_sine_or_cosine_is_the_sine_or_cosine(turns):
    field = FormField(Work(1000))
    for exact, function in ((exact_sine, math.sin), (exact_cosine, math.cos)):
        found = exact(field, turns)
        if found is not None:
            assert value_of(found) == pytest.approx(function(turns * math.pi), abs=1e-14)
        # The cosines of odd multiples of 18 degrees have nested roots.
        assert found is not None or (exact is exact_cosine and turns.denominator == 10)


def test_other_angles_have_no_exact_sine():
    assert exact_sine(FormField(Work(1000)), Fraction(1, 7)) is None
