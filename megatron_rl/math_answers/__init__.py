r"""Math answers: read what somebody wrote, and decide whether two answers are the same.

A library by itself: it imports nothing else of this package, and only the standard library, mpmath
and SymPy (and math-verify, where they are asked for a second opinion).

    >>> is_equal_answer(r"\frac{1}{2}", "0.5")
    True
    >>> is_equal_answer(r"(x+1)^2", r"x^2 + 2x + 1")
    True
    >>> is_equal_answer("3 cm", "30 mm"), is_equal_answer("3 cm", "30 cm")
    (True, False)
    >>> find_gold_fault("1/0")
    "cannot be parsed, it has no value: division by zero: '1/0'"

``is_equal_answer(answer, gold)`` asks for a proof: what cannot be read, or cannot be shown to be
equal in a bounded number of steps, is not equal. It is a pure function of two texts and evaluates
nothing that it reads. It takes microseconds on nearly everything and may take seconds on what is
hostile: call it where it can be killed.

Rooms, each of which imports only those above it:

* ``tree``: what a parsed formula is.
* ``text``: characters to tokens; numerals, units, words of many languages, juxtaposition.
* ``parsing``: tokens to a tree, by a Pratt parser.
* ``algebra``: whether two formulas are the same, by normal forms, exact and interval numbers,
  sample points, and SymPy last.
* ``kinds``: what an answer can be: sets, residues, intervals, clocks, equations.
* ``readers``: tokens to an answer of some kind.
* ``equality``: whether two answers are the same; second opinions of SymPy and math-verify.
"""

from megatron_rl.math_answers.readers.answer import MAX_ANSWER_CHARS
from megatron_rl.math_answers.same_answer import (
    find_gold_fault,
    find_reading_fault,
    is_equal_answer,
)

__all__ = ["MAX_ANSWER_CHARS", "find_gold_fault", "find_reading_fault", "is_equal_answer"]
