r"""Math answers: a reader of LaTeX and plain text, and proofs that two answers are equal.

A library by itself: it imports nothing else of this package, and only the standard library, mpmath
and SymPy (and math-verify, where they are asked for a second opinion).

    >>> is_equal_answer(r"\frac{1}{2}", "0.5")
    True
    >>> is_equal_answer(r"(x+1)^2", r"x^2 + 2x + 1")
    True
    >>> is_equal_answer("3 cm", "30 mm"), is_equal_answer("3 cm", "30 cm")
    (True, False)
    >>> find_gold_fault("1/0")
    "cannot be parsed: it has no value (division by zero): '1/0'"

``is_equal_answer(answer, gold)`` asks for a proof: answers that cannot be read, or not be shown to
be equal in a bounded number of steps, are different. The function is pure and evaluates no text. It
takes less than a millisecond on most answers and may take seconds on hostile ones: call it in a
process that can be killed.

Rooms, each of which imports only those above it:

* ``tree``: parsed formulas.
* ``text``: characters to tokens; numerals, units, words of seven languages, juxtaposition.
* ``parsing``: tokens to a formula, by a Pratt parser.
* ``algebra``: equality of formulas, by normal forms, sample points, bounds of algebraic numbers,
  and SymPy last.
* ``kinds``: records of answers: sets, residues, intervals, clocks, equations.
* ``readers``: tokens to an answer of some kind.
* ``equality``: equality of answers; second opinions of SymPy and math-verify.
"""

from megatron_rl.math_answers.readers.answer import MAX_ANSWER_CHARS
from megatron_rl.math_answers.same_answer import (
    find_gold_fault,
    find_reading_fault,
    is_equal_answer,
)

__all__ = ["MAX_ANSWER_CHARS", "find_gold_fault", "find_reading_fault", "is_equal_answer"]
