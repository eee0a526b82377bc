"""Difficulty filter: problems worth training on, from a model's answers. Pure.

The difficulty filter of arXiv:2506.10910, section 4.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Decision = Literal["kept", "too hard", "too easy", "doubtful answer", "not judged"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Grade:
    """Results of the samples of one problem."""

    problem_id: str
    num_errors: int
    """Samples without a verdict; all other fields leave them out."""
    num_correct: int
    num_wrong: int
    wrong_answers: tuple[tuple[str, int], ...]
    """Wrong answers as extracted, and how often each was given; the most frequent first."""

    @property
    def num_judged(self) -> int:
        """Samples with a verdict."""
        return self.num_correct + self.num_wrong

    @property
    def pass_rate(self) -> float:
        """Share of right samples among those with a verdict, of which there must be one."""
        return self.num_correct / self.num_judged


def grade_of(
    problem_id: str, answers: Sequence[str | None], correct: Sequence[bool], *, num_errors: int
) -> Grade:
    """Count verdicts.

    Args:
        problem_id: id of the problem.
        answers: [n] extracted answer of each judged sample, None where there was none.
        correct: [n] verdict on each.
        num_errors: samples without a verdict.
    """
    assert len(answers) == len(correct), (len(answers), len(correct))
    wrong = Counter(
        answer
        for answer, is_right in zip(answers, correct, strict=True)
        if not is_right and answer is not None
    )
    num_correct = sum(correct)
    return Grade(
        problem_id=problem_id,
        num_errors=num_errors,
        num_correct=num_correct,
        num_wrong=len(correct) - num_correct,
        # Ties are sorted by text, so that grades do not depend on the order of completion.
        wrong_answers=tuple(sorted(wrong.items(), key=lambda item: (-item[1], item[0]))),
    )


def decide(
    grade: Grade, *, min_pass_rate: float, max_pass_rate: float, doubt_share: float
) -> Decision:
    """Return whether a problem is kept, or why it is dropped.

    Args:
        grade: results of a model on the problem.
        min_pass_rate: a problem solved less often, or never, is too hard.
        max_pass_rate: a problem solved more often is too easy.
        doubt_share: if more than this share of the samples agree on one answer that is not the
            reference answer, the reference is probably wrong. Checked first: such problems look
            hard.
    """
    if not grade.num_judged:
        return "not judged"
    if grade.wrong_answers and grade.wrong_answers[0][1] > doubt_share * grade.num_judged:
        return "doubtful answer"
    if grade.num_correct == 0 or grade.pass_rate < min_pass_rate:
        return "too hard"
    return "too easy" if grade.pass_rate > max_pass_rate else "kept"
