"""Barren stretches: what is told of them, when, and when they end the run."""

from typing import Any

import pytest

from megatron_rl.config import RolloutConfig
from megatron_rl.errors import BarrenError
from megatron_rl.rollout.barren import BarrenStretch, BarrenWatch, cause_of
from megatron_rl.types import Completion, Group, Problem, Reward, Sample, Verdict

RIGHT = Verdict(format_ok=True, correct=True)
WRONG = Verdict(format_ok=True, correct=False, reason="the answer is not the expected one")
MALFORMED = Verdict(format_ok=False, correct=False, reason="does not start with <think>")


def group(*verdicts: Verdict, index: int = 0, text: str = "text", finish: str = "stop") -> Group:
    completion = Completion(
        token_ids=(1,), logprobs=(0.0,), policy_versions=(0,), finish_reason=finish
    )
    samples = tuple(
        Sample(completion=completion, text=text, verdict=verdict, reward=Reward(parts={}))
        for verdict in verdicts
    )
    problem = Problem(id=f"p{index}", text="?", answer="1")
    return Group(index=index, problem=problem, prompt_ids=(1,), samples=samples)


def watch(told: list[BarrenStretch], *, limit: int | None = None, **changes: Any) -> BarrenWatch:
    settings = {"first_report": 1, "pace_s": 0.0, "clock": lambda: 0.0}
    return BarrenWatch(report=told.append, limit=limit, **settings | changes)


@pytest.mark.parametrize(
    ("verdicts", "cause"),
    [
        ((RIGHT, RIGHT), "all right"),
        ((WRONG, WRONG), "all wrong"),
        ((WRONG, MALFORMED), "all wrong"),
        ((MALFORMED, MALFORMED), "all malformed"),
        ((RIGHT, WRONG), "all equal"),
    ],
)
def test_a_dropped_group_has_one_cause(verdicts, cause):
    assert cause_of(group(*verdicts)) == cause


def test_the_commonest_reason_is_told_with_a_response_that_has_it():
    told: list[BarrenStretch] = []
    dropped = watch(told)
    dropped.note_dropped(group(MALFORMED, MALFORMED, index=1, text="malformed"))
    dropped.note_dropped(group(WRONG, WRONG, index=2, text="wrong"))
    dropped.note_dropped(group(MALFORMED, MALFORMED, index=3, text="as malformed", finish="length"))
    last = told[-1]
    assert last.causes == {"all malformed": 2, "all wrong": 1}
    assert (last.cause, last.reason) == ("all malformed", "does not start with <think>")
    assert (last.problem, last.response) == ("p3", "as malformed")
    assert last.cut_off == pytest.approx(1 / 3)
    assert str(last) == (
        "3 groups in a row are dropped, since they teach nothing (2 all malformed, 1 all wrong; "
        "33% of completions cut off); most often: does not start with <think>; for example "
        "'as malformed' to problem 'p3'"
    )


def test_reports_keep_their_pace_however_many_groups_are_dropped():
    told: list[BarrenStretch] = []
    now = 0.0
    dropped = watch(told, first_report=10, pace_s=60.0, clock=lambda: now)
    for index in range(1000):
        now = index * 0.5
        dropped.note_dropped(group(WRONG, index=index))
    # The tenth group at 4.5 s, then one a minute up to 499.5 s.
    assert [stretch.num_groups for stretch in told] == [10 + 120 * k for k in range(9)]


def test_stretches_that_come_and_go_keep_the_pace_too():
    told: list[BarrenStretch] = []
    dropped = watch(told, first_report=2, pace_s=60.0)
    for _ in range(100):
        dropped.note_dropped(group(WRONG))
        dropped.note_dropped(group(WRONG))
        dropped.note_kept()
    assert [(stretch.num_groups, stretch.is_over) for stretch in told] == [(2, False), (2, True)]


def test_a_group_that_is_kept_ends_the_stretch():
    told: list[BarrenStretch] = []
    dropped = watch(told, limit=3)
    for _ in range(10):
        dropped.note_dropped(group(RIGHT))
        dropped.note_dropped(group(RIGHT))
        dropped.note_kept()
        assert dropped.num_groups == 0
    with pytest.raises(BarrenError):
        for _ in range(3):
            dropped.note_dropped(group(RIGHT))


@pytest.mark.parametrize(
    ("verdict", "finish", "remedies"),
    [
        (RIGHT, "stop", ["all right", "mastered", "harder ones to data.train"]),
        (WRONG, "stop", ["all wrong", "tools/filter_difficulty.py", "not the expected one"]),
        (WRONG, "length", ["all wrong", "raise generators.sampling.max_new_tokens"]),
        (MALFORMED, "stop", ["all malformed", "cold start ([sft])", "does not start with"]),
    ],
)
def test_the_end_says_count_cause_reason_response_and_remedy(verdict, finish, remedies):
    told: list[BarrenStretch] = []
    dropped = watch(told, limit=5, first_report=100)
    with pytest.raises(BarrenError) as caught:
        for index in range(6):
            dropped.note_dropped(group(verdict, index=index, text="so it is", finish=finish))
    message = str(caught.value)
    for fact in ("5 groups in a row", "rollout.max_barren_groups (5)", "'so it is'", *remedies):
        assert fact in message
    # A stretch too short for a report is told of all the same when it ends the run.
    assert [stretch.num_groups for stretch in told] == [5]


def test_without_a_limit_it_never_ends_and_never_grows():
    dropped = watch([], first_report=10**9)
    for index in range(3000):
        verdict = Verdict(format_ok=True, correct=False, reason=f"wrong {index}" + "x" * 1000)
        dropped.note_dropped(group(verdict, index=index))
    assert dropped.num_groups == 3000
    assert len(dropped._reasons) == len(dropped._examples) <= 1000


def test_a_long_response_is_shown_by_its_ends():
    told: list[BarrenStretch] = []
    watch(told).note_dropped(group(WRONG, text="a" * 1000 + "z" * 1000))
    assert told[0].response == "a" * 200 + " ... " + "z" * 200


def test_the_limit_is_eight_batches_unless_it_is_set():
    assert RolloutConfig().barren_limit == 8 * 2048 // 16
    assert RolloutConfig(n_batch=32, group_size=8).barren_limit == 256
    assert RolloutConfig(max_barren_groups=7).barren_limit == 7
    assert RolloutConfig(max_barren_groups=0).barren_limit is None
