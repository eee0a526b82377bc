"""Equality of a written answer with the gold answer, and faults of either.

The reader of this library takes nearly all answers, in less than a millisecond. Where it cannot
read the gold answer, the parsers of SymPy and math-verify try, and SymPy has to prove equality. An
answer that no parser reads is equal to none.
"""

from megatron_rl.math_answers.algebra.normal_form import form_of
from megatron_rl.math_answers.equality.answers import are_same_answer
from megatron_rl.math_answers.kinds.records import Answer, Quantity
from megatron_rl.math_answers.readers.answer import MAX_ANSWER_CHARS, Dialect, read_answer
from megatron_rl.math_answers.text.binomial_notation import write_out_binomials
from megatron_rl.math_answers.tree import E, Undefined, Unreadable

_USUAL = Dialect()
_AMBIGUOUS = (
    (("log",), Dialect(log_base=E)),
    (("e", "E"), Dialect(has_exponents=False)),
    ((" m", " g", " s", " h", " l", " L", " t", "cm", "mm"), Dialect(has_letter_units=False)),
)
"""Marks of ambiguity in a text, each with the other dialect to read the text in."""


def is_equal_answer(answer: str, gold: str) -> bool:
    """Return whether ``answer`` is provably the same as ``gold``."""
    if max(len(answer), len(gold)) > MAX_ANSWER_CHARS:
        return False
    for dialect in _dialects_of(answer, gold):
        wanted = _read(gold, dialect)
        found = _read(answer, dialect)
        if wanted is None or found is None:
            continue
        if are_same_answer(wanted, found):
            return True
    written = write_out_binomials(answer, gold)
    if written is not None and is_equal_answer(written, gold):
        return True
    if _read(gold, _USUAL) is not None:
        # Second opinions are slow: they are for forms that this library cannot read.
        return False
    from megatron_rl.math_answers.equality.second_opinions import is_equal_by_second_opinion

    return is_equal_by_second_opinion(answer, gold)


def find_gold_fault(gold: str) -> str | None:
    """Return why ``gold`` cannot serve as a ground truth, or None if it can."""
    fault = find_reading_fault(gold, with_second_opinions=True)
    if fault is not None:
        return f"{fault}: {gold[:200]!r}"
    return None


def find_reading_fault(text: str, *, with_second_opinions: bool) -> str | None:
    """Return why an answer cannot be understood, or None if it can.

    Args:
        text: the answer, without box and dollars or with them.
        with_second_opinions: ask the parsers of SymPy and math-verify, which take long, too.
    """
    if not text.strip():
        return "is empty"
    if len(text) > MAX_ANSWER_CHARS:
        return f"is longer than {MAX_ANSWER_CHARS} characters and cannot be parsed"
    try:
        answer = read_answer(text, _USUAL)
    except Unreadable as error:
        if not with_second_opinions:
            return f"cannot be parsed: it {error}"
        from megatron_rl.math_answers.equality.second_opinions import parse_for_second_opinion

        if parse_for_second_opinion(text) is None:
            return f"cannot be parsed: it {error}"
        return None
    if isinstance(answer, Quantity):
        try:
            form_of(answer.formula)
        except Undefined as error:
            return f"cannot be parsed: it has no value ({error})"
    return None


def _read(text: str, dialect: Dialect) -> Answer | None:
    try:
        return read_answer(text, dialect)
    except Unreadable:
        return None


def _dialects_of(answer: str, gold: str) -> list[Dialect]:
    both = f"{answer}|{gold}"
    return [_USUAL, *(d for marks, d in _AMBIGUOUS if any(mark in both for mark in marks))]
