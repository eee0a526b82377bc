"""Difficulty filter: problems kept, from a model's answers."""

import pytest

from megatron_rl.algorithm.difficulty import Grade, decide, grade_of

THRESHOLDS = {"min_pass_rate": 0.1, "max_pass_rate": 0.75, "doubt_share": 0.5}


def grade(*, correct: int, wrong: int = 0, errors: int = 0, wrong_answers=()) -> Grade:
    return Grade(
        problem_id="p",
        num_errors=errors,
        num_correct=correct,
        num_wrong=wrong,
        wrong_answers=tuple(wrong_answers),
    )


def test_verdicts_are_counted_by_answer_and_the_order_of_arrival_does_not_matter():
    answers = ["3", None, "4", "5", "4", "2", "5"]
    correct = [True, False, False, False, False, True, False]
    counted = grade_of("p", answers, correct, num_errors=1)
    assert counted == grade(
        correct=2, wrong=5, errors=1, wrong_answers=[("4", 2), ("5", 2)]
    )  # the one without an answer votes for none
    assert counted == grade_of("p", answers[::-1], correct[::-1], num_errors=1)
    assert (counted.num_judged, counted.pass_rate) == (7, 2 / 7)


@pytest.mark.parametrize(
    ("of", "decision"),
    [
        (grade(correct=8, wrong=8), "kept"),
        (grade(correct=12, wrong=4), "kept"),  # 0.75 is not above 0.75
        (grade(correct=13, wrong=3), "too easy"),
        (grade(correct=16), "too easy"),
        (grade(correct=0, wrong=16), "too hard"),
        (grade(correct=1, wrong=15), "too hard"),  # 0.0625 < 0.1
        (grade(correct=2, wrong=14), "kept"),
        (grade(correct=2, wrong=2, errors=12), "kept"),  # rates are of what was judged
        (grade(correct=0, errors=16), "not judged"),
        # Nine of sixteen say 7: that is the likelier label, however often the other was given.
        (grade(correct=4, wrong=12, wrong_answers=[("7", 9)]), "doubtful answer"),
        (grade(correct=4, wrong=12, wrong_answers=[("7", 8), ("9", 4)]), "kept"),
        (grade(correct=0, wrong=16, wrong_answers=[("7", 16)]), "doubtful answer"),
    ],
)
def test_decisions(of, decision):
    assert decide(of, **THRESHOLDS) == decision


def test_without_a_least_pass_rate_what_is_never_solved_is_dropped_all_the_same():
    lowest = THRESHOLDS | {"min_pass_rate": 0.0}
    assert decide(grade(correct=0, wrong=16), **lowest) == "too hard"
    assert decide(grade(correct=1, wrong=15), **lowest) == "kept"


def test_a_doubt_share_of_one_keeps_every_label():
    thresholds = THRESHOLDS | {"doubt_share": 1.0}
    agreed = grade(correct=2, wrong=14, wrong_answers=[("7", 14)])
    assert decide(agreed, **thresholds) == "kept"
