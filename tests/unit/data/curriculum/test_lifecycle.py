"""Lifecycle: problems of groups are a function of recorded borders, wherever a run is cut."""

import random
from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_rl.data.curriculum.lifecycle import BorderRecord, LifecycleCurriculum
from megatron_rl.data.curriculum.source import CurriculumSource
from megatron_rl.data.curriculum.standing import LifecycleRules
from megatron_rl.types import Cursor, GroupOutcome, Problem

RULES = {
    "retire_above": 0.75,
    "retire_visits": 2,
    "defer_below": 0.0,
    "defer_visits": 1,
    "defer_passes": 1,
    "reserve_above": 0.6,
    "reserve_join": 2,
}


def source(name: str, num: int, *, num_reserve: int = 0, weight: float = 1.0) -> CurriculumSource:
    keys = np.random.default_rng(num).integers(0, 2**63, num).astype(np.uint64)
    return CurriculumSource(
        name=name,
        problems=[Problem(id=str(i), text="?", answer="1") for i in range(num)],
        prompts=[(i,) for i in range(num)],
        keys_P=keys * np.uint64(2) + np.uint64(1),  # some need all 64 bits
        num_reserve=num_reserve,
        weight=weight,
        group_size=4,
    )


MIXTURE = (source("a", 7, num_reserve=3, weight=2), source("b", 3))


def curriculum(*sources: CurriculumSource, **changes: Any) -> LifecycleCurriculum:
    rules = LifecycleRules(**RULES | changes)
    return LifecycleCurriculum(sources or MIXTURE, seed=1, shuffle=True, rules=rules)


class Run:
    """Groups of a curriculum that finish in a random order, with outcomes of their problems."""

    def __init__(self, curriculum: LifecycleCurriculum, cursor: Cursor, *, seed: int) -> None:
        self.curriculum = curriculum
        self.random = random.Random(seed)
        self.started: dict[int, str] = {}
        self.running: list[int] = []
        self.next_index = cursor.next_index
        self.to_restart = list(cursor.outstanding)

    def start(self, num: int) -> None:
        for _ in range(num):
            index = self.to_restart[0] if self.to_restart else self.next_index
            assignment = self.curriculum.assignment(index)
            if assignment is None:
                return
            if self.to_restart:
                self.to_restart.pop(0)
            else:
                self.next_index += 1
            self.started[index] = assignment.problem.id
            self.running.append(index)

    def border(self, num: int) -> BorderRecord:
        """Settle some running groups, in any order, and return what is recorded."""
        settled = self.random.sample(self.running, min(num, len(self.running)))
        self.running = [index for index in self.running if index not in settled]
        outstanding = tuple(sorted([*self.running, *self.to_restart]))
        cursor = Cursor(next_index=self.next_index, outstanding=outstanding)
        self.curriculum.settle([self.outcome(index) for index in settled], cursor)
        (record,) = self.curriculum.take_records()
        return record

    def outcome(self, index: int) -> GroupOutcome:
        # Problems get easier; some stay too hard for long.
        problem = self.started[index]
        ease = random.Random(problem).random() * index / 25
        right = sum(random.Random(f"{index}/{i}").random() < ease for i in range(4))
        return GroupOutcome(index=index, num_correct=right, num_completions=4)


@given(seed=st.integers(0, 10**6), cut=st.integers(1, 25))
@settings(max_examples=40)
def test_a_run_cut_at_any_border_goes_on_with_the_same_problems(seed: int, cut: int):
    whole = Run(curriculum(), Cursor(), seed=seed)
    records = []
    for number in range(cut):
        whole.start(whole.random.randint(0, 6))
        records.append(whole.border(whole.random.randint(0, 6 + number % 3)))
    cursor = records[-1].cursor
    again = curriculum()
    again.restore(records)
    resumed = Run(again, cursor, seed=seed)
    assert again.metrics() == whole.curriculum.metrics()
    # What was outstanding is asked first, then new groups; whole runs ask for new ones alone.
    resumed.start(len(cursor.outstanding) + 12)
    whole.start(12)
    assert resumed.started == {index: whole.started[index] for index in resumed.started}
    # And so at the next border, given the same outcomes.
    resumed.running = list(whole.running)
    resumed.random.setstate(whole.random.getstate())
    assert resumed.border(5) == whole.border(5)
    whole.start(9)
    resumed.start(9)
    assert resumed.started == {index: whole.started[index] for index in resumed.started}


def test_problems_go_through_all_standings_and_the_run_ends_when_all_are_solved():
    run = Run(curriculum(), Cursor(), seed=0)
    seen: Counter[str] = Counter()
    for _ in range(400):
        run.start(4)
        run.border(4)
        seen.update(key for key, value in run.curriculum.metrics().items() if value)
        if run.curriculum.assignment(run.next_index) is None:
            break
    assert {f"curriculum/{s}" for s in ("active", "solved", "deferred", "reserve")} <= seen.keys()
    assert run.curriculum.metrics() | {"curriculum/solved": 10.0} == run.curriculum.metrics()
    assert run.curriculum.assignment(run.next_index + 5) is None
    # Every problem was visited, those of the reserve too.
    assert len(set(run.started.values())) == 10


def test_a_source_that_is_solved_leaves_its_turns_to_the_others():
    sources = source("a", 2), source("b", 40, weight=3), source("c", 40)
    run = Run(curriculum(*sources, retire_visits=1), Cursor(), seed=0)
    run.outcome = lambda index: GroupOutcome(  # type: ignore[method-assign]
        index=index, num_correct=4 if run.started[index][0] == "a" else 2, num_completions=4
    )
    run.start(10)
    run.border(10)
    assert Counter(name[0] for name in run.started.values()) == {"a": 2, "b": 6, "c": 2}
    run.started.clear()
    run.start(20)
    assert Counter(name[0] for name in run.started.values()) == {"b": 15, "c": 5}


def test_with_nothing_solved_the_order_is_that_without_a_lifecycle():
    from megatron_rl.data.curriculum.by_index import IndexCurriculum

    sources = source("a", 7, weight=2), source("b", 3)
    plain = IndexCurriculum(sources, seed=1, shuffle=True)
    run = Run(curriculum(*sources, retire_visits=0, defer_visits=0), Cursor(), seed=0)
    for _ in range(20):
        run.start(3)
        run.border(2)
    expected = [plain.assignment(index).problem.id for index in range(60)]
    assert [run.started[index] for index in range(60)] == expected


def test_a_lifecycle_that_begins_in_the_middle_of_a_run_goes_on_with_its_groups():
    cursor = Cursor(next_index=40, outstanding=(31, 33, 38))
    begun = curriculum()
    begun.restore([])
    run = Run(begun, cursor, seed=0)
    run.start(1)
    record = run.border(1)  # before the others are started
    assert record.cursor.outstanding == (33, 38) and record.outstanding == [None, None]
    again = curriculum()
    again.restore([record])
    run.start(6)
    assert list(run.started) == [31, 33, 38, 40, 41, 42, 43]
    for index in list(run.started)[1:]:
        assignment = again.assignment(index)
        assert assignment is not None and assignment.problem.id == run.started[index]


def test_outcomes_outlive_a_change_of_the_problems():
    """As where a stage of a run has other rows, rules and weights: keys tell what is known."""
    before = Run(curriculum(source("a", 6)), Cursor(), seed=3)
    records = []
    for _ in range(12):
        before.start(3)
        records.append(before.border(2))
    six = source("a", 6)
    fewer = CurriculumSource(
        name="a",
        problems=six.problems[2:],
        prompts=six.prompts[2:],
        keys_P=six.keys_P[2:],
        num_reserve=0,
        weight=1.0,
        group_size=4,
    )
    after = curriculum(fewer, source("new", 5))
    after.restore(records)
    cursor = records[-1].cursor
    for index in cursor.outstanding:
        was = before.started[index]
        assert was in ("a/0", "a/1") or after.assignment(index).problem.text == "?"
    known = after.metrics()
    assert known["curriculum/active"] >= 5  # the new ones
    assert sum(known[f"source/a/{s}"] for s in ("active", "solved", "deferred")) == 4
    assert after.assignment(cursor.next_index) is not None
