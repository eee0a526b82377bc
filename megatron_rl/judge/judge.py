"""Judge: verdicts from verifier processes, here and on other machines, or a named error.

A verifier that hangs, crashes or is killed never stands for a wrong answer: the attempt is
repeated on a fresh process, on another machine if there is one, and then given up with a
VerifierError that names the problem.

Example::

    async with Judge([WorkerPool(settings)], max_retries=1, wait_s=60.0) as judge:
        verdict = await judge(problem, response)
"""

import asyncio
import collections
import contextlib
import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from megatron_rl.errors import VerifierError
from megatron_rl.judge.worker_handle import AttemptFailed
from megatron_rl.judge.worker_pool import Graded
from megatron_rl.types import Problem, Response, Verdict

# How often a response may lose its process to something that is not its own fault.
_MAX_INFRASTRUCTURE_FAILURES = 8
_POLL_S = 0.05
_NUM_LATENCIES = 2048

logger = logging.getLogger(__name__)


class Backend(Protocol):
    """A source of verdicts: the pool of this machine, or a judge on another machine."""

    @property
    def name(self) -> str:
        """Name in messages."""
        ...

    @property
    def capacity(self) -> int:
        """Verdicts at a time; 0 while the backend is away."""
        ...

    @property
    def in_flight(self) -> int:
        """Responses given to the backend and not judged yet."""
        ...

    @property
    def num_waiting(self) -> int:
        """Responses in flight that no worker works on yet."""
        ...

    async def __aenter__(self) -> Any:
        """Open the backend."""
        ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the backend."""
        ...

    async def attempt(
        self, problem: Problem, response: Response, *, order: int, is_retry: bool
    ) -> Graded:
        """Judge once, or raise AttemptFailed; see :meth:`WorkerPool.attempt`."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeStats:
    """Counters since the judge was opened."""

    judged: int
    """Verdicts returned."""
    errors: int
    """Responses given up with a VerifierError."""
    retries: int
    """Attempts repeated."""
    queue_length: int
    """Responses waiting for a worker now."""
    mean_execution_s: float
    """Mean time a verdict took in its worker; 0 before the first one."""
    latency_p50_s: float
    """Median time from the question to the verdict, of the newest two thousand; 0 before any."""
    latency_p99_s: float
    """99th percentile of that time."""


class Judge:
    """Judges responses on the backends given; call it to judge one."""

    def __init__(self, backends: Sequence[Backend], *, max_retries: int, wait_s: float) -> None:
        """Take the backends; ``async with`` opens them.

        Args:
            backends: at least one; the least busy is asked.
            max_retries: attempts after the first one failed.
            wait_s: longest time to wait for a backend to come back when all are away.
        """
        assert backends, "at least one backend"
        self._backends = backends
        self._max_retries = max_retries
        self._wait_s = wait_s
        self._is_closed = False
        self._open = contextlib.AsyncExitStack()
        self._orders = itertools.count()
        self._judged = self._errors = self._retries = 0
        self._execution_s = 0.0
        self._latencies_s: collections.deque[float] = collections.deque(maxlen=_NUM_LATENCIES)

    async def __aenter__(self) -> Self:
        """Open all backends; raise VerifierError if one cannot be used as it is set up."""
        async with self._open:
            for backend in self._backends:
                await self._open.enter_async_context(backend)
            self._open = self._open.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all backends; calls still waiting get a VerifierError."""
        self._is_closed = True
        await self._open.aclose()

    async def __call__(self, problem: Problem, response: Response) -> Verdict:
        """Return the verdict on a response to ``problem``.

        Raises:
            VerifierError: every attempt hung, crashed or raised; says which problem and how.
        """
        return (await self.grade(problem, response)).verdict

    async def grade(self, problem: Problem, response: Response) -> Graded:
        """Return the verdict and its execution time; raise VerifierError as a call does."""
        asked_s = time.monotonic()
        # Retries keep their place in the queue: they have waited already.
        order = next(self._orders)
        num_failures = num_infrastructure_failures = 0
        avoid: Backend | None = None
        while (
            num_failures <= self._max_retries
            and num_infrastructure_failures <= _MAX_INFRASTRUCTURE_FAILURES
        ):
            self._retries += bool(num_failures or num_infrastructure_failures)
            try:
                avoid = await self._choose(avoid)
                graded = await avoid.attempt(
                    problem, response, order=order, is_retry=num_failures > 0
                )
            except AttemptFailed as error:
                failure = str(error)
                num_failures += not error.is_infrastructure_failure
                num_infrastructure_failures += error.is_infrastructure_failure
                logger.warning("problem %s: an attempt failed: %s", problem.id, failure)
            else:
                self._judged += 1
                self._execution_s += graded.seconds
                self._latencies_s.append(time.monotonic() - asked_s)
                return graded
        self._errors += 1
        attempts = num_failures + num_infrastructure_failures
        raise VerifierError(
            f"problem {problem.id}: no verdict after {attempts} attempts: {failure}"
        )

    def stats(self) -> JudgeStats:
        """Return the counters so far."""
        latencies = sorted(self._latencies_s) or [0.0]
        return JudgeStats(
            judged=self._judged,
            errors=self._errors,
            retries=self._retries,
            queue_length=sum(backend.num_waiting for backend in self._backends),
            mean_execution_s=self._execution_s / self._judged if self._judged else 0.0,
            latency_p50_s=latencies[len(latencies) // 2],
            latency_p99_s=latencies[len(latencies) * 99 // 100],
        )

    async def _choose(self, avoid: Backend | None) -> Backend:
        """Return the backend with the least work per worker, another than ``avoid`` if any."""
        give_up_s = time.monotonic() + self._wait_s
        while not (present := [b for b in self._backends if b.capacity]):
            if self._is_closed or time.monotonic() > give_up_s:
                names = ", ".join(backend.name for backend in self._backends)
                raise AttemptFailed(f"no judge is left of: {names}")
            await asyncio.sleep(_POLL_S)
        if self._is_closed:
            raise AttemptFailed("the judge is closed")
        others = [backend for backend in present if backend is not avoid]
        return min(others or present, key=lambda b: b.in_flight / b.capacity)
