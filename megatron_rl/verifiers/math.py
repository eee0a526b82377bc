r"""Math answers: the last ``\boxed{...}`` of the answer part against the ground truth.

docs/verifiers.md defines which answers are equal; ``math_answers`` decides it.
"""

from megatron_rl.math_answers import find_reading_fault, is_equal_answer
from megatron_rl.types import Problem, Verdict
from megatron_rl.verifiers.answer_formats import find_stated_answer, formats_of, shown


def verify_math(problem: Problem, text: str) -> Verdict:
    """Judge the last stated answer of the answer part ``text``. May be slow: call it in a judge."""
    formats = formats_of(problem)
    stated = find_stated_answer(text, formats)
    answer = None if stated is None else stated.answer or None
    if answer is None:
        reason = f"there is no {shown(formats)} with an answer after the thoughts"
        return Verdict(format_ok=True, correct=False, reason=reason, is_parsable=False)
    is_correct = is_equal_answer(answer, problem.answer)
    fault = None if is_correct else find_reading_fault(answer, with_second_opinions=False)
    reason = "the answer is not the expected one" if fault is None else f"the answer {fault}"
    return Verdict(
        format_ok=True,
        correct=is_correct,
        answer=answer,
        reason="" if is_correct else reason,
        is_parsable=fault is None,
    )
