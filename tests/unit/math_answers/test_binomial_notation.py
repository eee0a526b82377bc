"""Binomial notation of schools, whose letters otherwise name points and constants."""

import pytest

from megatron_rl.math_answers import is_equal_answer
from megatron_rl.math_answers.text.binomial_notation import write_out_binomials


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (r"C_{10}^{3}", "120"),
        (r"C_5^2", "10"),
        (r"\mathrm{C}_{10}^3", r"\binom{10}{3}"),
        (r"{}_{10}C_{3}", "120"),
        (r"_{10}C_3", "120"),
        (r"^{10}C_3", "120"),
        ("C(10,3)", "120"),
        (r"\text{C}(10, 3)", "120"),
        (r"A_5^2", "20"),
        (r"P(5,2)", "20"),
        (r"\frac{C_4^2}{C_{10}^{3}}", r"\frac{1}{20}"),
        (r"2C_{4}^{2}+1", "13"),
    ],
)
def test_they_are_numbers_when_the_gold_has_no_such_letter(answer, gold):
    assert is_equal_answer(answer, gold)
    assert not is_equal_answer(answer, f"{gold}+1")


def test_a_constant_stays_what_it_is():
    assert is_equal_answer(r"C_1^2 x", r"xC_1^2")


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("x", r"C_1^2+x"),  # not 0
        (r"C_1^2+x", "x"),
        (r"C_2^3", "0"),
        ("C(10,3)", "10"),
        ("ABC(10,3)", "120"),
        (r"\sinC(10,3)", "120"),
        (r"A_{5}^{2}", "10"),
    ],
)
def test_what_is_something_else_is_wrong(answer, gold):
    assert not is_equal_answer(answer, gold)


def test_nothing_is_written_where_there_is_nothing():
    assert write_out_binomials("x+1", "1+x") is None
    assert write_out_binomials("C_5^2", "C") is None
