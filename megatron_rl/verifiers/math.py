r"""Math answers: the last ``\boxed{...}`` of the answer part against the ground truth.

What counts as equal is written down in docs/verifiers.md. Our own reader understands nearly all
answers in microseconds; a gold that it does not know, the parsers of SymPy and math-verify may
read, and then SymPy has to prove equality. What nobody can read is never equal to anything.
"""

from megatron_rl.types import Problem, Verdict
from megatron_rl.verifiers.answer_reader import LONGEST_ANSWER, Dialect, read_answer
from megatron_rl.verifiers.answers import Answer, Quantity
from megatron_rl.verifiers.combinations import in_plain_notation
from megatron_rl.verifiers.equality import are_same_answer
from megatron_rl.verifiers.exact import form_of
from megatron_rl.verifiers.format import CLOSE_TAG, OPEN_TAG, find_last_box
from megatron_rl.verifiers.syntax import E, Undefined, Unreadable

_USUAL = Dialect()
_AMBIGUOUS = (
    (("log",), Dialect(log_base=E)),
    (("e", "E"), Dialect(has_exponents=False)),
    ((" m", " g", " s", " h", " l", " L", " t", "cm", "mm"), Dialect(has_letter_units=False)),
)
"""What in an answer allows a second reading, and that reading."""


def verify_math(problem: Problem, text: str) -> Verdict:
    """Judge the last box after the last ``</think>``. May be slow: call it in a judge."""
    answer = find_answer(text)
    if answer is None:
        reason = r"there is no \boxed{} with an answer after the thoughts"
        return Verdict(format_ok=True, correct=False, reason=reason, is_parsable=False)
    is_correct = is_equal_answer(answer, problem.answer)
    fault = None if is_correct else _find_fault(answer, is_asked_elsewhere=False)
    reason = "the answer is not the expected one" if fault is None else f"the answer {fault}"
    return Verdict(
        format_ok=True,
        correct=is_correct,
        answer=answer,
        reason="" if is_correct else reason,
        is_parsable=fault is None,
    )


def find_answer(text: str) -> str | None:
    """Return what the last complete box of the answer part holds, None where there is nothing.

    A response without tags is all answer; one with an open tag has none yet.
    """
    answer_part = text.rpartition(CLOSE_TAG)[2]
    if OPEN_TAG in answer_part:
        return None
    return find_last_box(answer_part) or None


def is_equal_answer(answer: str, gold: str) -> bool:
    """Return whether ``answer`` is provably the same as ``gold``."""
    if max(len(answer), len(gold)) > LONGEST_ANSWER:
        return False
    for dialect in _dialects_of(answer, gold):
        wanted = _read(gold, dialect)
        found = _read(answer, dialect)
        if wanted is None or found is None:
            continue
        if are_same_answer(wanted, found):
            return True
    written = in_plain_notation(answer, gold)
    if written is not None and is_equal_answer(written, gold):
        return True
    if _read(gold, _USUAL) is not None:
        # The other parsers are slow; they are for what is worth asking in a form we do not know.
        return False
    from megatron_rl.verifiers.other_parsers import is_equal_elsewhere  # late: takes a second

    return is_equal_elsewhere(answer, gold)


def find_gold_fault(gold: str) -> str | None:
    """Return why ``gold`` cannot serve as a ground truth, or None if it can."""
    fault = find_reading_fault(gold)
    if fault is not None:
        return f"{fault}: {gold[:200]!r}"
    return None


def find_reading_fault(text: str) -> str | None:
    """Return why an answer cannot be understood, or None if it can."""
    return _find_fault(text, is_asked_elsewhere=True)


def _find_fault(text: str, *, is_asked_elsewhere: bool) -> str | None:
    if not text.strip():
        return "is empty"
    if len(text) > LONGEST_ANSWER:
        return f"is longer than {LONGEST_ANSWER} characters and cannot be parsed"
    try:
        answer = read_answer(text, _USUAL)
    except Unreadable as error:
        if not is_asked_elsewhere:
            return f"cannot be parsed, it {error}"
        from megatron_rl.verifiers.other_parsers import parse_elsewhere  # late: takes a second

        return None if parse_elsewhere(text) is not None else f"cannot be parsed, it {error}"
    if isinstance(answer, Quantity):
        try:
            form_of(answer.formula)
        except Undefined as error:
            return f"cannot be parsed, it has no value: {error}"
    return None


def _read(text: str, dialect: Dialect) -> Answer | None:
    try:
        return read_answer(text, dialect)
    except Unreadable:
        return None


def _dialects_of(answer: str, gold: str) -> list[Dialect]:
    both = f"{answer}|{gold}"
    return [_USUAL, *(d for marks, d in _AMBIGUOUS if any(mark in both for mark in marks))]
