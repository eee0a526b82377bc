"""The judge: verifiers in a pool of killable processes, each verdict under a deadline.

A verifier that hangs, crashes or is killed never stands for a wrong answer: the attempt is
repeated on a fresh process and then given up with a VerifierError that names the problem.

Example::

    async with Judge(num_workers=4, deadline_s=10.0, max_retries=1) as judge:
        verdict = await judge(problem, text)
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import signal
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from megatron_rl.errors import VerifierError
from megatron_rl.rollout import judge_worker
from megatron_rl.types import Problem, Verdict

DEFAULT_VERIFIER = "megatron_rl.verifiers:verify"
"""Judges problems of every kind."""

_START_TIMEOUT_S = 120.0
# The worker enforces the deadline itself; we step in when even that fails, for example when the
# process is stopped. The slack is for our own event loop, which may be late to read a reply.
_GRACE_S = 5.0
_EXIT_TIMEOUT_S = 2.0

logger = logging.getLogger(__name__)


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


class _AttemptFailed(Exception):
    """One attempt at a verdict came to nothing; the message says how."""


class Judge:
    """Pool of verifier processes; call it to judge a response."""

    def __init__(
        self,
        *,
        num_workers: int,
        deadline_s: float,
        max_retries: int,
        verifier: str = DEFAULT_VERIFIER,
    ) -> None:
        """Name the verifier (``module:function``) and bound its processes and their time.

        Args:
            num_workers: processes; as many verdicts are computed at a time, others wait.
            deadline_s: longest execution of one verdict; neither queueing nor starting counts.
            max_retries: attempts after the first one failed.
            verifier: what the processes import and call.
        """
        self._num_workers = num_workers
        self._deadline_s = deadline_s
        self._max_retries = max_retries
        self._verifier = verifier
        # One slot per worker. An empty slot stands for a worker that has to be started first.
        self._slots: asyncio.Queue[_Worker | None] = asyncio.Queue()
        self._alive: set[_Worker] = set()
        self._is_closed = False
        self._judged = self._errors = self._retries = self._waiting = 0
        self._execution_s = 0.0

    async def __aenter__(self) -> Self:
        """Start all workers; raise VerifierError if one cannot import the verifier."""
        try:
            workers = await asyncio.gather(
                *(self._start() for _ in range(self._num_workers)), return_exceptions=True
            )
            for worker in workers:
                if isinstance(worker, BaseException):
                    raise worker
                self._slots.put_nowait(worker)
        except BaseException as error:
            await self._close()
            if isinstance(error, _AttemptFailed):
                message = f"verifier {self._verifier} cannot start: {error}"
                raise VerifierError(message) from None
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill all workers; calls still waiting get a VerifierError."""
        await self._close()

    async def __call__(self, problem: Problem, text: str) -> Verdict:
        """Return the verdict on ``text`` as a response to ``problem``.

        Raises:
            VerifierError: every attempt hung, crashed or raised; says which problem and how.
        """
        request = judge_worker.pack({"problem": dataclasses.asdict(problem), "text": text})
        for attempt in range(1 + self._max_retries):
            try:
                return await self._attempt(request)
            except _AttemptFailed as error:
                failure = str(error)
            logger.warning("problem %s: attempt %d: %s", problem.id, attempt + 1, failure)
            self._retries += attempt < self._max_retries
        self._errors += 1
        raise VerifierError(
            f"problem {problem.id}: no verdict after {1 + self._max_retries} attempts: {failure}"
        )

    def stats(self) -> JudgeStats:
        """Return the counters so far."""
        return JudgeStats(
            judged=self._judged,
            errors=self._errors,
            retries=self._retries,
            queue_length=self._waiting,
            mean_execution_s=self._execution_s / self._judged if self._judged else 0.0,
        )

    async def _attempt(self, request: bytes) -> Verdict:
        self._waiting += 1
        try:
            worker = await self._slots.get()
        finally:
            self._waiting -= 1
        is_reusable = False
        try:
            if worker is not None and not worker.is_running:
                self._alive.discard(worker)
                worker = None
            if worker is None:
                worker = await self._start()
            reply = await worker.ask(request, timeout_s=self._deadline_s + _GRACE_S)
            is_reusable = True
        finally:
            self._slots.put_nowait(worker if is_reusable else None)
            # Also when cancelled: a worker that still owes an answer must serve nobody else.
            if worker is not None and not is_reusable:
                await self._discard(worker)
        if "traceback" in reply:
            logger.warning("verifier %s raised\n%s", self._verifier, reply["traceback"])
            last_line = reply["traceback"].rstrip().splitlines()[-1]
            raise _AttemptFailed(f"the verifier raised {last_line}")
        self._judged += 1
        self._execution_s += reply["seconds"]
        return Verdict(**reply["verdict"])

    async def _start(self) -> "_Worker":
        if self._is_closed:
            raise _AttemptFailed("the judge is closed")
        worker = await _Worker.start(self._verifier, deadline_s=self._deadline_s)
        self._alive.add(worker)
        try:
            await worker.receive(timeout_s=_START_TIMEOUT_S)
        except BaseException:
            await self._discard(worker)
            raise
        return worker

    async def _discard(self, worker: "_Worker") -> None:
        self._alive.discard(worker)
        await worker.kill()

    async def _close(self) -> None:
        self._is_closed = True
        # Callers that wait for a worker find an empty slot, and then that the judge is closed.
        for _ in range(self._waiting):
            self._slots.put_nowait(None)
        await asyncio.gather(*(worker.kill() for worker in self._alive))
        self._alive.clear()


class _Worker:
    """Our end of one worker process."""

    def __init__(self, process: asyncio.subprocess.Process, *, deadline_s: float) -> None:
        self._process = process
        self._deadline_s = deadline_s

    @classmethod
    async def start(cls, verifier: str, *, deadline_s: float) -> Self:
        """Start a process that imports ``verifier``; it is ready once it has said so."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", judge_worker.__name__),
            *(verifier, str(deadline_s), str(os.getpid())),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # What we can import, the worker can; "" is the folder we run in.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
            # Ctrl-C in the terminal is for us alone, and a kill reaches the verifier's children.
            start_new_session=True,
        )
        return cls(process, deadline_s=deadline_s)

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended yet, as far as we know."""
        return self._process.returncode is None

    async def ask(self, request: bytes, *, timeout_s: float) -> dict[str, Any]:
        """Send a packed request and return the reply; raise _AttemptFailed if none comes."""
        assert self._process.stdin is not None
        self._process.stdin.write(request)
        # No drain(): if the pipe breaks, reading finds the end of the stream and says why.
        return await self.receive(timeout_s=timeout_s)

    async def receive(self, *, timeout_s: float) -> dict[str, Any]:
        """Return the next message; raise _AttemptFailed if the process ends or stays silent."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(timeout_s):
                header = await self._process.stdout.readexactly(judge_worker.HEADER.size)
                (length,) = judge_worker.HEADER.unpack(header)
                return json.loads(await self._process.stdout.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            raise _AttemptFailed(await self._describe_end()) from None
        except TimeoutError:
            raise _AttemptFailed(f"the verifier's process was silent for {timeout_s} s") from None

    async def kill(self) -> None:
        """End the process and its children, and reap it."""
        if self.is_running:
            self._kill_group()
        await self._process.wait()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def _describe_end(self) -> str:
        """Reap a process whose pipe has ended and say how it ended."""
        try:
            async with asyncio.timeout(_EXIT_TIMEOUT_S):
                code = await self._process.wait()
        except TimeoutError:
            self._kill_group()
            code = await self._process.wait()
        # Children that the verifier started outlive it; its group does not have a new owner yet.
        self._kill_group()
        if code == -signal.SIGALRM:
            return f"the verifier exceeded its deadline of {self._deadline_s} s"
        if code < 0:
            return f"the verifier's process was killed by {signal.Signals(-code).name}"
        return f"the verifier's process ended with exit code {code}"
