import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from megatron_rl.errors import (
    BarrenError,
    GeneratorRequestError,
    GeneratorUnavailableError,
    VerifierError,
)
from megatron_rl.rollout.barren import BarrenWatch
from megatron_rl.rollout.collector import Collector, CollectorLimits
from megatron_rl.types import (
    Assignment,
    Completion,
    Cursor,
    GroupOutcome,
    Problem,
    Response,
    Reward,
    Sampling,
    Verdict,
)
from tests.unit.records import answering

TICK_S = 0.002
GROUP_SIZE = 2


class Generator:
    """Takes as long as the completion is; says when each began."""

    def __init__(self, length_of: Callable[[int, int], int], *, limit: int = 10**6) -> None:
        self._length_of, self._limit = length_of, limit
        self.begun: list[tuple[int, int]] = []
        self.in_flight = self.most_in_flight = self.cancelled = 0

    async def lease(self) -> "Generator":
        return self

    async def __call__(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, request_id: str
    ) -> Completion:
        index, position = map(int, request_id.split("-")[1:])
        assert prompt_ids == (index,)
        self.begun.append((index, position))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        length = self._length_of(index, position)
        try:
            await asyncio.sleep(length * TICK_S)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_flight -= 1
        return Completion(
            token_ids=(position,) * length,
            logprobs=(-1.0,) * length,
            policy_versions=(0,) * length,
            finish_reason="length" if length >= self._limit else "stop",
        )


async def judge_first_correct(problem: Problem, response: Response) -> Verdict:
    """Find the first completion of every group right and the others wrong."""
    await asyncio.sleep(0)
    return Verdict(format_ok=True, correct=response.answer == "0")


def pay_correctness(verdict: Verdict, *, num_tokens: int, is_truncated: bool) -> Reward:
    return Reward(parts={"correctness": 1.0 * verdict.correct}, is_masked=is_truncated)


def assign(index: int, *, group_size: int = GROUP_SIZE, source: str = "") -> Assignment:
    return Assignment(
        problem=Problem(id=f"p{index}", text="?", answer="0"),
        prompt_ids=(index,),
        group_size=group_size,
        source=source,
    )


class Assigning:
    """A curriculum of a function; notes what it is told."""

    def __init__(self, function: Callable[[int], Assignment | None]) -> None:
        self.assignment = function
        self.settled: list[tuple[Sequence[GroupOutcome], Cursor]] = []

    def settle(self, outcomes: Sequence[GroupOutcome], cursor: Cursor) -> None:
        self.settled.append((outcomes, cursor))


def make_watch(limit: int | None = None, **changes: Any) -> BarrenWatch:
    settings = {
        "first_report": 4,
        "pace_s": 0.0,
        "report": lambda stretch: None,
        "clock": lambda: 0,
    }
    return BarrenWatch(limit=limit, **settings | changes)


def make_collector(generator: Generator, **changes: Any) -> Collector:
    limits = {
        "n_async": 8,
        "n_batch": 4 * GROUP_SIZE,
        "groups_per_batch": 4,
        "max_open_groups": 8,
        "max_lag_groups": 10**6,
        "max_unjudged": 10**6,
        "is_sync": False,
    }
    limits |= {name: changes.pop(name) for name in limits.keys() & changes.keys()}
    settings: dict[str, Any] = {
        "lease": generator.lease,
        "sampling": Sampling(params={}),
        "judge": judge_first_correct,
        "reward": pay_correctness,
        "read": lambda _, token_ids: (str(token_ids[0]), answering(str(token_ids[0]))),
        "curriculum": Assigning(changes.pop("assign", assign)),
        "cursor": Cursor(),
        "drop_rule": "reward",
        "barren": make_watch(),
        "request_prefix": "test",
    }
    return Collector(limits=CollectorLimits(**limits), **{**settings, **changes})


def collect(collector: Collector, num_batches: int) -> list[Any]:
    async def scenario() -> list[Any]:
        async with collector:
            return [await collector.next_batch() for _ in range(num_batches)]

    return run(scenario())


def run(scenario: Awaitable[Any]) -> Any:
    async def limited() -> Any:
        return await asyncio.wait_for(scenario, 10)

    return asyncio.run(limited())


def indices(batches: Sequence[Any]) -> list[list[int]]:
    return [[group.index for group in batch.groups] for batch in batches]


def heavy_tailed(index: int, position: int) -> int:
    return min(int(random.Random(f"{index}/{position}").paretovariate(1.0)), 20)


def test_batches_come_in_start_order_though_groups_finish_in_any():
    batches = collect(make_collector(Generator(heavy_tailed)), 5)
    assert indices(batches) == [list(range(4 * k, 4 * k + 4)) for k in range(5)]
    for batch in batches:
        for group in batch.groups:
            assert [sample.text for sample in group.samples] == ["0", "1"]
            assert group.prompt_ids == (group.index,) and group.problem.id == f"p{group.index}"


def test_the_reward_knows_which_completions_were_cut_off():
    generator = Generator(lambda _, position: 1 + position, limit=2)
    (batch,) = collect(make_collector(generator), 1)
    for group in batch.groups:
        assert [sample.reward.is_masked for sample in group.samples] == [False, True]


def test_a_group_whose_completions_are_all_masked_is_dropped():
    generator = Generator(lambda index, _: 2 if index < 3 else 1, limit=2)
    (batch,) = collect(make_collector(generator), 1)
    assert indices([batch]) == [[3, 4, 5, 6]]
    assert batch.metrics["rollout/dropped_groups"] == 3


def test_completions_begin_in_the_order_of_their_groups():
    generator = Generator(heavy_tailed)
    collect(make_collector(generator), 5)
    assert generator.begun == sorted(generator.begun)


def test_n_async_completions_are_in_flight_and_never_more():
    generator = Generator(lambda *_: 3)
    seen: list[int] = []

    async def scenario() -> None:
        async with make_collector(generator, n_async=6, max_open_groups=10**6):
            for _ in range(20):
                await asyncio.sleep(TICK_S)
                seen.append(generator.in_flight)

    run(scenario())
    assert generator.most_in_flight == 6
    assert sorted(seen)[len(seen) // 2] == 6  # a place is empty only for an instant


def test_a_group_that_lags_too_far_joins_the_next_batch_when_it_completes():
    generator = Generator(lambda index, _: 40 if index == 0 else 1)
    batches = collect(make_collector(generator, max_lag_groups=4), 8)
    trained = [index for batch in indices(batches) for index in batch]
    assert indices(batches)[0] == [1, 2, 3, 4]
    assert len(set(trained)) == len(trained)

    async def scenario() -> list[list[int]]:
        async with make_collector(generator, max_lag_groups=4) as collector:
            first = await collector.next_batch()
            while 0 not in collector._whole:  # however busy the machine is
                await asyncio.sleep(TICK_S)
            return indices([first, await collector.next_batch()])

    assert run(scenario()) == [[1, 2, 3, 4], [0, 5, 6, 7]]


def test_starting_stops_while_the_learner_is_behind():
    generator = Generator(lambda *_: 1)

    async def scenario() -> None:
        async with make_collector(generator, max_open_groups=10) as collector:
            await collector.next_batch()
            await asyncio.sleep(50 * TICK_S)
            # The four groups in hand and six more.
            assert len(generator.begun) == 10 * GROUP_SIZE and generator.in_flight == 0
            await collector.next_batch()
            await asyncio.sleep(50 * TICK_S)
            assert len(generator.begun) == 14 * GROUP_SIZE and generator.in_flight == 0

    run(scenario())


def test_starting_never_stops_while_a_batch_is_asked_for():
    # Group 0 holds back everything for as long as 40 others take in a row.
    generator = Generator(lambda index, _: 40 if index == 0 else 1)
    collector = make_collector(generator, n_async=4, max_open_groups=5)
    (batch,) = collect(collector, 1)
    assert indices([batch]) == [[0, 1, 2, 3]]
    assert len(generator.begun) > 3 * 5 * GROUP_SIZE
    assert batch.cursor.outstanding[:3] == (4, 5, 6)


def test_groups_without_advantage_are_dropped_and_measured():
    async def judge_even_groups_right(problem: Problem, response: Response) -> Verdict:
        group = int(problem.id[1:])
        return Verdict(format_ok=True, correct=group % 2 == 0 or response.answer == "0")

    collector = make_collector(Generator(lambda *_: 1), judge=judge_even_groups_right)
    (batch,) = collect(collector, 1)
    assert indices([batch]) == [[1, 3, 5, 7]]
    metrics = batch.metrics
    assert metrics["rollout/dropped_groups"] in (4, 5)  # group 8 may be whole as well
    num_groups = 4 + metrics["rollout/dropped_groups"]
    # Half of a kept group and all of a dropped one is right.
    expected = (4 * 0.5 + metrics["rollout/dropped_groups"]) / num_groups
    assert metrics["rollout/correct"] == pytest.approx(expected)
    assert metrics["reward/total"] == metrics["reward/correctness"] == pytest.approx(expected)


def test_a_mastered_curriculum_is_told_of_and_ends_the_run_instead_of_spinning():
    async def judge_right(problem: Problem, response: Response) -> Verdict:
        return Verdict(format_ok=True, correct=True, answer=response.answer)

    told: list[Any] = []
    watch = make_watch(limit=10, report=told.append)
    with pytest.raises(BarrenError, match=r"^10 groups in a row .*\(10 all right; .*mastered"):
        collect(make_collector(Generator(lambda *_: 1), judge=judge_right, barren=watch), 1)
    assert [stretch.num_groups for stretch in told] == [4, 5, 6, 7, 8, 9, 10]


def test_the_longest_stretch_of_dropped_groups_and_their_causes_are_measured():
    async def judge(problem: Problem, response: Response) -> Verdict:
        group = int(problem.id[1:])
        if group < 3:
            return Verdict(format_ok=False, correct=False, reason="no tag")
        return Verdict(format_ok=True, correct=group < 5 or response.answer == "0")

    told: list[Any] = []
    collector = make_collector(
        Generator(lambda *_: 1), judge=judge, n_async=2, barren=make_watch(report=told.append)
    )
    (batch,) = collect(collector, 1)
    assert indices([batch]) == [[5, 6, 7, 8]]
    assert batch.metrics["rollout/barren_groups"] == batch.metrics["rollout/dropped_groups"] == 5
    counts = [batch.metrics[f"rollout/dropped_{x}"] for x in ("malformed", "right", "wrong")]
    assert counts == [3, 2, 0]
    # The fourth and the fifth, and that it is over.
    assert [(stretch.num_groups, stretch.is_over) for stretch in told] == [
        (4, False),
        (5, False),
        (5, True),
    ]


def test_a_verifier_error_drops_the_group_by_name_and_cancels_its_rest(caplog):
    async def judge(problem: Problem, response: Response) -> Verdict:
        if problem.id == "p1":
            raise VerifierError("out of time")
        return await judge_first_correct(problem, response)

    generator = Generator(lambda index, position: 300 if (index, position) == (1, 1) else 1)
    (batch,) = collect(make_collector(generator, judge=judge), 1)
    assert indices([batch]) == [[0, 2, 3, 4]]
    assert batch.metrics["rollout/failed_groups"] == batch.metrics["rollout/dropped_groups"] == 1
    assert 'group 1 of problem "p1" is dropped: out of time' in caplog.text
    assert generator.cancelled >= 1
    assert 1 not in batch.cursor.outstanding


def test_a_refused_request_drops_the_group():
    def refuse_two(index: int, position: int) -> int:
        if index == 2:
            raise GeneratorRequestError("HTTP 400")
        return 1

    (batch,) = collect(make_collector(Generator(refuse_two)), 1)
    assert indices([batch]) == [[0, 1, 3, 4]]


def test_too_many_failures_end_the_run_with_their_reason():
    async def judge(problem: Problem, response: Response) -> Verdict:
        raise VerifierError("all broken")

    with pytest.raises(VerifierError, match="all broken"):
        collect(make_collector(Generator(lambda *_: 1), judge=judge), 1)


@pytest.mark.parametrize("error", [GeneratorUnavailableError("no server"), ZeroDivisionError()])
def test_what_is_nobodys_fault_reaches_whoever_collects(error: Exception):
    def fail(index: int, position: int) -> int:
        raise error

    with pytest.raises(type(error)):
        collect(make_collector(Generator(fail)), 1)


def test_failed_groups_do_not_leak_places_in_flight():
    async def judge(problem: Problem, response: Response) -> Verdict:
        if int(problem.id[1:]) % 2:
            raise VerifierError("broken")
        return await judge_first_correct(problem, response)

    generator = Generator(heavy_tailed)
    batches = collect(make_collector(generator, judge=judge, n_async=3), 12)
    assert [i for batch in indices(batches) for i in batch] == list(range(0, 96, 2))
    assert generator.most_in_flight == 3


def test_leaving_cancels_everything_in_flight():
    generator = Generator(lambda *_: 10_000)

    async def scenario() -> None:
        async with make_collector(generator):
            await asyncio.sleep(5 * TICK_S)
            assert generator.in_flight == 8
        assert generator.in_flight == 0 and generator.cancelled == 8
        assert asyncio.all_tasks() == {asyncio.current_task(), *outer}

    outer = set()

    async def outermost() -> None:
        outer.update(asyncio.all_tasks())
        await scenario()

    run(outermost())


def test_sync_starts_only_what_the_batch_that_is_asked_for_lacks():
    async def judge(problem: Problem, response: Response) -> Verdict:
        is_dropped = problem.id in ("p1", "p2")
        return Verdict(format_ok=True, correct=not is_dropped and response.answer == "0")

    generator = Generator(heavy_tailed)

    async def scenario() -> None:
        async with make_collector(generator, judge=judge, is_sync=True) as collector:
            await asyncio.sleep(10 * TICK_S)
            assert generator.begun == []
            first = await collector.next_batch()
            assert indices([first]) == [[0, 3, 4, 5]]
            await asyncio.sleep(10 * TICK_S)
            # Four groups, and one more for each of the two dropped.
            assert len(generator.begun) == 6 * GROUP_SIZE
            assert first.cursor == Cursor(next_index=6)
            assert indices([await collector.next_batch()]) == [[6, 7, 8, 9]]
            assert len(generator.begun) == 10 * GROUP_SIZE

    run(scenario())


def test_a_run_that_dies_at_any_batch_trains_every_group_once():
    cursor, trained = Cursor(), []
    for life in range(6):
        generator = Generator(lambda i, p, life=life: heavy_tailed(i + 1000 * life, p))
        collector = make_collector(generator, cursor=cursor, max_lag_groups=3)
        batches = collect(collector, 1 + life % 3)
        trained += [index for batch in indices(batches) for index in batch]
        cursor = batches[-1].cursor
    assert len(trained) == len(set(trained))
    assert sorted([*trained, *cursor.outstanding]) == list(range(cursor.next_index))


def test_a_judge_that_falls_behind_keeps_finished_completions_in_flight():
    unjudged: list[int] = []

    async def scenario() -> int:
        generator = Generator(lambda index, position: 1)
        verdicts = asyncio.Event()

        async def slow_judge(problem: Problem, response: Response) -> Verdict:
            unjudged.append(1)
            await verdicts.wait()
            return await judge_first_correct(problem, response)

        collector = make_collector(generator, judge=slow_judge, max_unjudged=3)
        async with collector:
            asking = asyncio.create_task(collector.next_batch())
            await asyncio.sleep(0.3)
            waiting = len(unjudged)
            verdicts.set()
            await asking
        return waiting

    assert run(scenario()) == 3
    assert len(unjudged) > 3
