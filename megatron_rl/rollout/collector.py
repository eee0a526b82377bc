"""Keep completions in flight, judge each as it finishes, and hand out batches of groups.

``n_async`` completions are in flight at any time. A new group starts as soon as the last completion
of the previous group is in flight, so completions start in the order of their groups. While the
caller waits for a batch, generation waits only for an overloaded judge. While the caller does not,
the learner is behind, and no group starts once ``max_open_groups`` groups are started and not
handed over, those of the last batch included. Staleness is bounded by that number, or by the groups
that pile up behind a slow one (see StartOrder).

With ``is_sync`` groups start only for the batch that the caller waits for, as many as it lacks.

What groups work on may depend on the outcomes of earlier ones. The curriculum is told of outcomes
at borders alone: where a batch is taken, and where as many groups were dropped as a batch has, or a
curriculum that is solved would never hear of it.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

from megatron_rl.algorithm.filtering import is_zero_advantage
from megatron_rl.errors import BarrenError, GeneratorRequestError, VerifierError
from megatron_rl.protocols import GenerateFn, GroupCurriculum, ReadFn, RewardFn
from megatron_rl.rollout.barren import BarrenWatch, Cause, cause_of
from megatron_rl.rollout.ordering import StartOrder
from megatron_rl.rollout.rollout_metrics import Outcome, outcome_metrics, outcomes_of
from megatron_rl.rollout.source_metrics import source_metrics
from megatron_rl.types import (
    Assignment,
    Cursor,
    Group,
    GroupOutcome,
    Problem,
    Response,
    Sample,
    Sampling,
    Verdict,
)

_LOG = logging.getLogger(__name__)

# Groups that may fail between two batches before the failure ends the run.
_FAILURE_BUDGET = 16

JudgeFn = Callable[[Problem, Response], Awaitable[Verdict]]


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectorLimits:
    """Limits on what is in flight, in the order of the collector's docstring."""

    n_async: int
    """Completions in flight."""
    n_batch: int
    """Completions of one batch, to which the group that fills it may add some."""
    groups_per_batch: int
    """Groups of one batch, about: as many may fail before the run ends."""
    max_open_groups: int
    """Groups started and not handed over at which starting stops while the learner is behind."""
    max_lag_groups: int
    """See StartOrder."""
    max_unjudged: int
    """Completions without a verdict at which finished ones keep their place in flight."""
    is_sync: bool
    """Start groups only for the batch that the caller waits for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """The groups of one batch, and metrics since the previous batch."""

    groups: tuple[Group, ...]
    """Groups of the batch in start order."""
    cursor: Cursor
    """The curriculum once these groups are settled."""
    metrics: Mapping[str, float]
    """``reward/*`` and ``rollout/*``, without staleness."""


@dataclass(kw_only=True, slots=True)
class _OpenGroup:
    """A group with completions that are not judged yet."""

    assignment: Assignment
    samples: list[Sample | None]
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


@dataclass(kw_only=True, slots=True)
class _Interval:
    """Counts since the previous batch."""

    started_groups: int = 0
    dropped_groups: int = 0
    failed_groups: int = 0
    completions: int = 0
    tokens: int = 0
    dropped_outcomes: list[Outcome] = field(default_factory=list)
    dropped_causes: Counter[Cause] = field(default_factory=Counter)
    dropped_of_source: Counter[str] = field(default_factory=Counter)
    barren_groups: int = 0


class Collector:
    """Holds the tasks of every group in flight. Use as an async context manager."""

    def __init__(
        self,
        *,
        lease: Callable[[], Awaitable[GenerateFn]],
        sampling: Sampling,
        judge: JudgeFn,
        reward: RewardFn,
        read: ReadFn,
        curriculum: GroupCurriculum,
        cursor: Cursor,
        limits: CollectorLimits,
        drop_rule: Literal["reward", "correctness", "never"],
        barren: BarrenWatch,
        request_prefix: str,
    ) -> None:
        """Prepare to collect after ``cursor``.

        Args:
            lease: returns the ``GenerateFn`` of one group; may wait for a server.
            sampling: passed to the ``GenerateFn``.
            judge: returns a verdict, or raises VerifierError when it has none.
            reward: pays for a judged completion.
            read: (prompt, completion) token ids to text and response; called in a thread.
            curriculum: what groups work on, asked when they start.
            cursor: where the last batch left the curriculum.
            limits: how much is in flight.
            drop_rule: which groups are dropped, see ``is_zero_advantage``.
            barren: told of every group that is kept or dropped; may end the run.
            request_prefix: start of every request id, unique to this process.
        """
        self._lease = lease
        self._sampling = sampling
        self._judge = judge
        self._reward = reward
        self._read = read
        self._curriculum = curriculum
        self._limits = limits
        self._drop_rule = drop_rule
        self._barren = barren
        self._request_prefix = request_prefix
        self._order = StartOrder(cursor, max_lag_groups=limits.max_lag_groups)
        self._slots = asyncio.Semaphore(limits.n_async)
        self._unjudged = asyncio.Semaphore(limits.max_unjudged)
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight: set[asyncio.Task[None]] = set()
        self._running: dict[int, _OpenGroup] = {}
        self._whole: dict[int, Group] = {}
        self._interval = _Interval()
        self._settled: list[GroupOutcome] = []
        self._num_in_hand = 0
        self._is_batch_wanted = False
        self._is_exhausted = False
        self._progress = asyncio.Event()
        self._failure: BaseException | None = None

    async def __aenter__(self) -> Self:
        """Begin to start groups."""
        starter = asyncio.create_task(self._start_groups(), name="start groups")
        self._tasks.add(starter)
        starter.add_done_callback(self._note_end)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cancel everything in flight and wait until it is gone."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def next_batch(self) -> Collected:
        """Return the next batch; the call means that the previous batch has been handed over."""
        self._num_in_hand = 0
        self._is_batch_wanted = True
        self._notify_progress()
        while (indices := self._take()) is None:
            if self._is_exhausted and not self._running:
                raise BarrenError(_nothing_left(len(self._whole)))
            await self._progress.wait()
        self._is_batch_wanted = False
        self._num_in_hand = len(indices)
        groups = tuple(self._whole.pop(index) for index in indices)
        metrics = _interval_metrics(self._interval, groups)
        self._interval = _Interval()
        return Collected(groups=groups, cursor=self._settle(groups), metrics=metrics)

    def _settle(self, taken: Sequence[Group] = ()) -> Cursor:
        """Draw a border after the groups that were dropped and those that are taken."""
        cursor = self._order.cursor()
        self._curriculum.settle([*self._settled, *map(_outcome_of, taken)], cursor)
        self._settled = []
        self._is_exhausted = False  # until the curriculum says so again
        return cursor

    def _take(self) -> list[int] | None:
        if self._failure is not None:
            raise self._failure
        return self._order.take(self._limits.n_batch, size_of=self._size_of_whole)

    def _size_of_whole(self, index: int) -> int:
        return len(self._whole[index].samples)

    async def _start_groups(self) -> None:
        while True:
            while not self._may_start():
                await self._progress.wait()
            assignment = self._curriculum.assignment(self._order.next_to_start)
            if assignment is None:
                self._is_exhausted = True
                self._notify_progress()
                await self._progress.wait()
                continue
            self._is_exhausted = False
            index = self._order.start()
            size = assignment.group_size
            self._running[index] = _OpenGroup(assignment=assignment, samples=[None] * size)
            generate = await self._lease()
            self._interval.started_groups += 1
            for position in range(size):
                await self._slots.acquire()
                self._start_sample(index, position, generate)

    def _may_start(self) -> bool:
        limits = self._limits
        if limits.is_sync:
            return self._is_batch_wanted and self._num_open_completions() < limits.n_batch
        return (
            self._is_batch_wanted
            or self._order.num_open + self._num_in_hand < limits.max_open_groups
        )

    def _num_open_completions(self) -> int:
        running = sum(len(group.samples) for group in self._running.values())
        return running + sum(len(group.samples) for group in self._whole.values())

    def _start_sample(self, index: int, position: int, generate: GenerateFn) -> None:
        """Start one completion in the acquired slot; release the slot if the group has failed."""
        if index not in self._running:
            self._slots.release()
            return
        task = asyncio.create_task(self._run_sample(index, position, generate))
        self._tasks.add(task)
        self._in_flight.add(task)
        self._running[index].tasks.add(task)
        task.add_done_callback(self._note_end)

    async def _run_sample(self, index: int, position: int, generate: GenerateFn) -> None:
        group = self._running[index]
        assignment = group.assignment
        try:
            try:
                completion = await generate(
                    assignment.prompt_ids,
                    self._sampling,
                    request_id=f"{self._request_prefix}-{index}-{position}",
                )
                # A judge that falls behind slows generation down, instead of a queue that grows.
                await self._unjudged.acquire()
            finally:
                self._give_slot_back(asyncio.current_task())
            self._interval.completions += 1
            self._interval.tokens += len(completion.token_ids)
            try:
                text, response = await asyncio.to_thread(
                    self._read, assignment.prompt_ids, completion.token_ids
                )
                verdict = await self._judge(assignment.problem, response)
            finally:
                self._unjudged.release()
        except (VerifierError, GeneratorRequestError) as error:
            self._fail(index, error)
            return
        reward = self._reward(
            verdict, num_tokens=len(completion.token_ids), is_truncated=completion.is_truncated
        )
        group.samples[position] = Sample(
            completion=completion, text=text, verdict=verdict, reward=reward
        )
        self._finish_if_whole(index)

    def _finish_if_whole(self, index: int) -> None:
        run = self._running[index]
        samples = tuple(sample for sample in run.samples if sample is not None)
        if len(samples) < len(run.samples):
            return
        del self._running[index]
        group = Group(
            index=index,
            problem=run.assignment.problem,
            prompt_ids=run.assignment.prompt_ids,
            samples=samples,
            source=run.assignment.source,
        )
        if is_zero_advantage(
            [sample.reward.total for sample in samples],
            [sample.verdict.correct for sample in samples],
            [sample.reward.is_masked for sample in samples],
            rule=self._drop_rule,
        ):
            self._order.drop(index)
            self._note_dropped(group)
        else:
            self._order.complete(index)
            self._whole[index] = group
            self._barren.note_kept()
        self._notify_progress()

    def _note_dropped(self, group: Group) -> None:
        interval = self._interval
        interval.dropped_groups += 1
        self._settled.append(_outcome_of(group))
        if len(self._settled) >= self._limits.groups_per_batch:
            self._settle()
        interval.dropped_outcomes += outcomes_of(group)
        interval.dropped_of_source[group.source] += 1
        interval.dropped_causes[cause_of(group)] += 1
        try:
            self._barren.note_dropped(group)
        except BarrenError as error:
            self._failure = error
        interval.barren_groups = max(interval.barren_groups, self._barren.num_groups)

    def _fail(self, index: int, error: VerifierError | GeneratorRequestError) -> None:
        """Drop a failed group and log it; past the budget ``next_batch`` raises the error."""
        if index not in self._running:
            return
        run = self._running.pop(index)
        for task in run.tasks - {asyncio.current_task()}:
            task.cancel()
        self._order.drop(index)
        self._interval.dropped_groups += 1
        self._interval.failed_groups += 1
        problem = run.assignment.problem
        _LOG.error('group %d of problem "%s" is dropped: %s', index, problem.id, error)
        if self._interval.failed_groups > max(_FAILURE_BUDGET, self._limits.groups_per_batch):
            self._failure = error
        self._notify_progress()

    def _give_slot_back(self, task: asyncio.Task[None] | None) -> None:
        if task in self._in_flight:
            self._in_flight.discard(task)
            self._slots.release()

    def _note_end(self, task: asyncio.Task[None]) -> None:
        """Keep an unexpected exception of a task, for ``next_batch`` to raise."""
        self._tasks.discard(task)
        # A task that is cancelled before it first runs never reaches its own finally.
        self._give_slot_back(task)
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            self._notify_progress()

    def _notify_progress(self) -> None:
        """Wake all tasks that wait for progress, once."""
        self._progress.set()
        self._progress.clear()


def _outcome_of(group: Group) -> GroupOutcome:
    return GroupOutcome(
        index=group.index,
        num_correct=sum(sample.verdict.correct for sample in group.samples),
        num_completions=len(group.samples),
    )


def _nothing_left(num_whole: int) -> str:
    left = f" ({num_whole} groups are left, too few for a batch)" if num_whole else ""
    return (
        "every problem is solved and has left the curriculum, so that nothing is left to train "
        f"on{left}. What to do: take the last checkpoint as the result and end the run with a "
        "smaller num_steps; or add harder problems (data.train, data.reserve); or keep solved ones "
        "for longer (data.lifecycle.retire_above, retire_visits)"
    )


def _interval_metrics(interval: _Interval, groups: Sequence[Group]) -> dict[str, float]:
    outcomes = [outcome for group in groups for outcome in outcomes_of(group)]
    outcomes += interval.dropped_outcomes
    return {
        **outcome_metrics(outcomes),
        **source_metrics(groups, outcomes, dropped_groups=interval.dropped_of_source),
        "rollout/started_groups": float(interval.started_groups),
        "rollout/kept_groups": float(len(groups)),
        "rollout/dropped_groups": float(interval.dropped_groups),
        "rollout/dropped_right": float(interval.dropped_causes["all right"]),
        "rollout/dropped_wrong": float(interval.dropped_causes["all wrong"]),
        "rollout/dropped_malformed": float(interval.dropped_causes["all malformed"]),
        "rollout/barren_groups": float(interval.barren_groups),
        "rollout/failed_groups": float(interval.failed_groups),
        "rollout/completions": float(interval.completions),
        "rollout/tokens": float(interval.tokens),
    }
