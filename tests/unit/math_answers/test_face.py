"""The examples of the library's own docstring."""

import doctest

from megatron_rl import math_answers


def test_the_examples_of_the_docstring_are_true():
    assert doctest.testmod(math_answers) == (0, 4)
