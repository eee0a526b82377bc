"""Numbers: double factorials, rounding of small decimals, blanks at the end of a box."""

import pytest

from megatron_rl.math_answers import find_gold_fault, is_equal_answer
from megatron_rl.types import Problem
from megatron_rl.verifiers.math import verify_math

DIFFERENT = [
    ("5!!", "120!"),
    ("720", "3!!"),
    ("12!!", "(12!)!"),
    ("0.001", "1/1600"),  # one digit says too little
    ("0.001", "0.0014"),
    ("0.000", "0.0004"),
]
SAME = [
    ("5!!", "15"),  # 5 * 3 * 1
    ("12!!", "46080"),  # 12 * 10 * 8 * 6 * 4 * 2
    ("720", "(3!)!"),
    ("1", "0!!"),
    ("0.025", "0.02514"),
    ("0.333", "1/3"),
    ("5", r"5\\"),
    ("5", r"5\ "),
    (r"\frac{10^{12}(10^{12}+1)}{2}", r"\sum_{k=1}^{10^{12}}k"),
]


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_other_numbers_are_refused(gold, answer):
    assert not is_equal_answer(answer, gold)


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_other_spellings_of_a_number_are_accepted(gold, answer):
    assert is_equal_answer(answer, gold)


def test_a_factorial_in_steps_of_three_is_not_guessed_at():
    assert find_gold_fault("7!!!") is not None


@pytest.mark.parametrize("box", [r"\boxed{5\ }", r"\boxed{5\, }", r"\boxed{5 \text{ cm}\ }"])
def test_a_blank_at_the_end_of_the_box_does_no_harm(box):
    problem = Problem(id="a", text="", answer="5")
    assert verify_math(problem, f"<think>hm</think>{box}").correct
