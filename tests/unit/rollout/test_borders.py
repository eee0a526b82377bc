"""Borders at which a curriculum hears of outcomes, and a curriculum with nothing left."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from megatron_rl.errors import BarrenError, VerifierError
from megatron_rl.types import Assignment, Cursor, GroupOutcome, Problem, Response, Verdict
from tests.unit.rollout.test_collector import (
    GROUP_SIZE,
    Assigning,
    Generator,
    assign,
    collect,
    heavy_tailed,
    make_collector,
    run,
)


async def judge_every_third_right(problem: Problem, response: Response) -> Verdict:
    """Find all completions of every third group right, so that it is dropped."""
    is_dropped = int(problem.id[1:]) % 3 == 0
    return Verdict(format_ok=True, correct=is_dropped or response.answer == "0")


def test_every_settled_group_is_told_of_once_at_the_border_that_settles_it():
    curriculum = Assigning(assign)
    collector = make_collector(
        Generator(heavy_tailed), judge=judge_every_third_right, curriculum=curriculum
    )
    batches = collect(collector, 5)
    told = [outcome for outcomes, _ in curriculum.settled for outcome in outcomes]
    indices = [outcome.index for outcome in told]
    assert len(indices) == len(set(indices))
    for outcome in told:
        expected = GROUP_SIZE if outcome.index % 3 == 0 else 1
        assert (outcome.num_correct, outcome.num_completions) == (expected, GROUP_SIZE)
    last = curriculum.settled[-1][1]
    assert last == batches[-1].cursor
    assert sorted([*indices, *last.outstanding]) == list(range(last.next_index))
    # The cursor of each batch is that of a border.
    cursors = [cursor for _, cursor in curriculum.settled]
    assert all(batch.cursor in cursors for batch in batches)


def test_no_group_starts_between_a_batch_and_the_border_it_draws():
    asked_at: list[int] = []
    borders: list[Cursor] = []

    class Noting(Assigning):
        def settle(self, outcomes: Sequence[GroupOutcome], cursor: Cursor) -> None:
            borders.append(cursor)

    def assign_noting(index: int) -> Assignment:
        asked_at.append(index)
        if borders:
            assert index >= borders[-1].next_index
        return assign(index)

    collect(make_collector(Generator(heavy_tailed), curriculum=Noting(assign_noting)), 6)
    assert len(borders) == 6 and asked_at == sorted(asked_at)


def test_a_curriculum_that_is_solved_hears_of_it_though_no_batch_is_ever_full():
    """Retiring what is solved has to be possible where everything is dropped."""
    retired_from: list[int] = []

    class Retiring(Assigning):
        def settle(self, outcomes: Sequence[GroupOutcome], cursor: Cursor) -> None:
            super().settle(outcomes, cursor)
            if not retired_from:
                retired_from.append(cursor.next_index)

    def assign_harder(index: int) -> Assignment:
        # After the first border, problems are no longer all right.
        is_easy = not retired_from or index < retired_from[0]
        given = assign(index)
        problem = Problem(id="easy" if is_easy else "hard", text="?", answer="0")
        return Assignment(problem=problem, prompt_ids=given.prompt_ids, group_size=GROUP_SIZE)

    async def judge(problem: Problem, response: Response) -> Verdict:
        return Verdict(format_ok=True, correct=problem.id == "easy" or response.answer == "0")

    curriculum = Retiring(assign_harder)
    (batch,) = collect(
        make_collector(Generator(lambda *_: 1), judge=judge, curriculum=curriculum), 1
    )
    assert {group.problem.id for group in batch.groups} == {"hard"}
    outcomes, _ = curriculum.settled[0]
    assert len(outcomes) == 4  # as many as a batch has groups


def test_a_failed_group_has_no_outcome():
    async def judge(problem: Problem, response: Response) -> Verdict:
        if problem.id == "p1":
            raise VerifierError("out of time")
        return Verdict(format_ok=True, correct=response.answer == "0")

    curriculum = Assigning(assign)
    collect(make_collector(Generator(lambda *_: 1), judge=judge, curriculum=curriculum), 2)
    told = {outcome.index for outcomes, _ in curriculum.settled for outcome in outcomes}
    assert 1 not in told and {0, 2, 3} <= told
    assert all(1 not in cursor.outstanding for _, cursor in curriculum.settled[1:])


@pytest.mark.parametrize("is_sync", [False, True])
def test_a_run_ends_and_says_so_when_no_problem_is_left(is_sync: bool):
    def assign_ten(index: int) -> Assignment | None:
        return assign(index) if index < 10 else None

    collected: list[Any] = []

    async def scenario() -> None:
        collector = make_collector(
            Generator(heavy_tailed), curriculum=Assigning(assign_ten), is_sync=is_sync
        )
        async with collector:
            while True:
                collected.append(await collector.next_batch())

    with pytest.raises(BarrenError, match=r"^every problem is solved .*\(2 groups are left, too"):
        run(scenario())
    # What was in flight has been trained on.
    assert [group.index for batch in collected for group in batch.groups] == list(range(8))


def test_what_comes_back_goes_on_after_nothing_was_left():
    returned: list[int] = []

    def assign_later(index: int) -> Assignment | None:
        return assign(index) if index < 4 or returned else None

    class Returning(Assigning):
        def settle(self, outcomes: Sequence[GroupOutcome], cursor: Cursor) -> None:
            returned.append(cursor.next_index)

    async def scenario() -> list[Any]:
        async with make_collector(
            Generator(lambda *_: 1), curriculum=Returning(assign_later)
        ) as collector:
            first = await collector.next_batch()
            await asyncio.sleep(0.01)
            return [first, await collector.next_batch()]

    batches = run(scenario())
    assert [[group.index for group in batch.groups] for batch in batches] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
    ]
