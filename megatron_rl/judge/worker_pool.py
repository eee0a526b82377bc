"""Pool of verifier processes on one machine: assigns responses to workers, replaces workers.

A worker that failed, that was cancelled at work, that has judged enough or holds much memory is
ended and replaced.
"""

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from megatron_rl.errors import VerifierError
from megatron_rl.judge.cpu_time import is_done_within
from megatron_rl.judge.fork_client import ForkClient
from megatron_rl.judge.priority_lanes import Lane, PriorityLanes
from megatron_rl.judge.worker_handle import AttemptFailed, JudgeProcess
from megatron_rl.types import Problem, Response, Verdict

# The worker enforces the deadline itself; the pool steps in when even that fails, for example when
# the process is stopped. The slack is for our own event loop, which may be late to read a reply.
_GRACE_S = 5.0
_START_RETRY_S = 60.0
_QUICK_DIVISOR_UNDER_LOAD = 10.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Graded:
    """A verdict and its execution time."""

    verdict: Verdict
    seconds: float
    """Execution time, without waiting for a worker."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolSettings:
    """Verifier of the processes, and their limits; see ``judge.*`` in the configuration."""

    verifier: str
    """``module:function``; called with ``settings``, it returns the verifier."""
    settings: Mapping[str, Any]
    """Plain JSON."""
    num_workers: int
    deadline_s: float
    slow_deadlines_s: Mapping[str, float]
    """Deadlines of kinds that always take long, such as code; these start in the slow lane."""
    quick_s: float
    memory_mb: int
    recycle_after: int


class WorkerPool:
    """Verifier processes of this machine. Use as an async context manager."""

    name = "this machine"

    def __init__(self, settings: PoolSettings) -> None:
        """Start nothing yet."""
        self._settings = settings
        self._lanes = PriorityLanes(settings.num_workers)
        self._idle: asyncio.LifoQueue[JudgeProcess | AttemptFailed] = asyncio.LifoQueue()
        self._alive: set[JudgeProcess] = set()
        self._starting: set[asyncio.Task[None]] = set()
        self._fork_client: ForkClient | None = None
        self._fork_client_lock = asyncio.Lock()
        self._is_closed = False
        self.capacity = settings.num_workers
        """Verdicts at a time."""
        self.in_flight = 0
        """Responses being judged or waiting."""
        self.num_replaced = 0
        """Workers that ended, for any reason."""

    @property
    def num_waiting(self) -> int:
        """Responses that wait for a worker."""
        return self._lanes.num_waiting

    async def __aenter__(self) -> Self:
        """Start all workers; raise VerifierError if one cannot make the verifier."""
        try:
            workers = await asyncio.gather(
                *(self._start() for _ in range(self._settings.num_workers)), return_exceptions=True
            )
            for worker in workers:
                if isinstance(worker, BaseException):
                    raise worker
                self._idle.put_nowait(worker)
        except BaseException as error:
            await self.close()
            if isinstance(error, AttemptFailed):
                name = self._settings.verifier
                raise VerifierError(f"verifier {name} cannot start: {error}") from None
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill all workers; attempts still waiting get AttemptFailed."""
        await self.close()

    async def attempt(
        self, problem: Problem, response: Response, *, order: int, is_retry: bool
    ) -> Graded:
        """Judge ``response`` once, or raise AttemptFailed.

        Args:
            problem: the problem.
            response: the response as read.
            order: priority; the smallest goes first.
            is_retry: an earlier attempt failed, so that this one starts in the slow lane.
        """
        deadlines = self._settings.slow_deadlines_s
        lane, deadline_s = Lane.QUICK, self._settings.deadline_s
        if problem.kind in deadlines:
            lane, deadline_s = Lane.SLOW, deadlines[problem.kind]
        if is_retry:
            lane = Lane.SLOW
        request = {
            "problem": dataclasses.asdict(problem),
            "response": dataclasses.asdict(response),
        }
        self.in_flight += 1
        try:
            reply = await self._run(request, lane, order=order, deadline_s=deadline_s)
            if reply is None:
                reply = await self._run(request, Lane.SLOW, order=order, deadline_s=deadline_s)
        finally:
            self.in_flight -= 1
        assert reply is not None, "the slow lane waits for every reply"
        if "traceback" in reply:
            last_line = reply["traceback"].rstrip().splitlines()[-1]
            logger.warning("problem %s: the verifier raised\n%s", problem.id, reply["traceback"])
            raise AttemptFailed(f"the verifier raised {last_line}")
        return Graded(verdict=Verdict(**reply["verdict"]), seconds=reply["seconds"])

    async def _run(
        self, request: Mapping[str, Any], lane: Lane, *, order: int, deadline_s: float
    ) -> dict[str, Any] | None:
        """Return the reply; None if the verdict is not quick and the slow lane is full."""
        await self._lanes.enter(lane, order)
        worker, is_reusable = None, False
        try:
            worker = await self._take()
            asking = asyncio.ensure_future(
                worker.ask(request, deadline_s=deadline_s, grace_s=_GRACE_S)
            )
            try:
                is_quick = lane is Lane.SLOW or await is_done_within(
                    asking, worker.pid, self._patience_s
                )
                if not is_quick:
                    if not self._lanes.change_to_slow():
                        return None
                    lane = Lane.SLOW
                    worker.lower_priority()
                reply = await asking
                # A verifier that raised may have a broken state. It would fail the next
                # responses faster than sound workers can judge them.
                is_reusable = "traceback" not in reply and worker.restore_priority()
                return reply
            finally:
                asking.cancel()
                with contextlib.suppress(AttemptFailed, asyncio.CancelledError):
                    await asking
        finally:
            self._lanes.leave(lane)
            # Also when cancelled: a worker that still owes an answer must not get another response.
            if worker is not None:
                self._give_back(worker, is_reusable=is_reusable)

    def _patience_s(self) -> float:
        """Return how long a verdict may stay in the quick lane: less when others wait for the lane.

        Nearly all verdicts take a small part of ``quick_s``. A flood of answers that take all of it
        would keep others waiting for a multiple of it.
        """
        quick_s = self._settings.quick_s
        return (
            quick_s / _QUICK_DIVISOR_UNDER_LOAD if self._lanes.is_awaited(Lane.QUICK) else quick_s
        )

    async def _take(self) -> JudgeProcess:
        while not self._is_closed:
            worker = await self._idle.get()
            if isinstance(worker, AttemptFailed):
                self._start_another()
                raise worker
            if worker.is_running:
                return worker
            self._alive.discard(worker)
            self._replace()
        raise AttemptFailed("the judge is closed")

    def _give_back(self, worker: JudgeProcess, *, is_reusable: bool) -> None:
        settings = self._settings
        is_worn = (
            worker.num_judged >= settings.recycle_after
            or worker.resident_mb > settings.memory_mb / 2
        )
        if is_reusable and not is_worn and worker.is_running:
            self._idle.put_nowait(worker)
            return
        ending = asyncio.ensure_future(self._discard(worker))
        self._starting.add(ending)
        ending.add_done_callback(self._starting.discard)
        self._replace()

    def _replace(self) -> None:
        self.num_replaced += 1
        self._start_another()

    def _start_another(self) -> None:
        if self._is_closed:
            return
        task = asyncio.ensure_future(self._start_for_idle())
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _start_for_idle(self) -> None:
        """Put a new worker, or the reason why there is none, into the idle queue."""
        try:
            self._idle.put_nowait(await self._start())
        except AttemptFailed as error:
            self._idle.put_nowait(error)

    async def _start(self) -> JudgeProcess:
        """Return a worker that is ready; start another when the infrastructure fails meanwhile."""
        give_up_s = time.monotonic() + _START_RETRY_S
        while True:
            try:
                return await self._start_once()
            except AttemptFailed as error:
                if not error.is_infrastructure_failure or time.monotonic() > give_up_s:
                    raise

    async def _start_once(self) -> JudgeProcess:
        async with self._fork_client_lock:
            if self._is_closed:
                raise AttemptFailed("the judge is closed")
            if self._fork_client is None or self._fork_client.has_ended:
                await self._load()
            assert self._fork_client is not None
            fork_client = self._fork_client
        worker = await fork_client.fork()
        self._alive.add(worker)
        return worker

    async def _load(self) -> None:
        settings = self._settings
        if self._fork_client is not None:
            await self._fork_client.close()
        self._fork_client = await ForkClient.start(
            settings.verifier, settings.settings, memory_mb=settings.memory_mb
        )

    async def _discard(self, worker: JudgeProcess) -> None:
        await worker.kill()
        self._alive.discard(worker)

    async def close(self) -> None:
        """Kill all workers and wait until they are gone."""
        self._is_closed = True
        closed = AttemptFailed("the judge is closed")
        self._lanes.close(closed)
        for _ in range(self._settings.num_workers):  # as many calls may wait for a worker to start
            self._idle.put_nowait(closed)
        tasks = list(self._starting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(worker.kill() for worker in list(self._alive)))
        self._alive.clear()
        if self._fork_client is not None:
            await self._fork_client.close()
