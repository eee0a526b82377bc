"""Handle of one verifier process: ask it, end it, and say how it ended."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from megatron_rl.judge import worker

_EXIT_TIMEOUT_S = 2.0
_LOW_PRIORITY = 10  # added to the process's nice value


class AttemptFailed(Exception):
    """One attempt at a verdict failed; the message says how."""

    def __init__(self, message: str, *, is_infrastructure_failure: bool = False) -> None:
        """Say whether the infrastructure failed, so that the response is not to blame."""
        super().__init__(message)
        self.is_infrastructure_failure = is_infrastructure_failure


class JudgeProcess:
    """One verifier process, idle or at work on one response."""

    def __init__(
        self,
        pid: int,
        ended: "asyncio.Future[int]",
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        kill: Callable[[], None],
    ) -> None:
        """Take over a process that has just been forked.

        Args:
            pid: process number, also that of the process group.
            ended: gets the exit code.
            reader: stream of replies.
            writer: stream of requests.
            kill: ends the process group, unless the process has ended.
        """
        self.pid = pid
        """Process number."""
        self._ended = ended
        self._reader = reader
        self._writer = writer
        self._kill = kill
        self._is_killed_by_us = False
        self._oom_kills = _count_oom_kills()
        self._deadline_s = 0.0
        self._priority: int | None = None
        self.num_judged = 0
        """Verdicts that the process has returned."""
        self.resident_mb = 0.0
        """Memory in use after the newest verdict."""

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended yet, as far as we know."""
        return not self._ended.done()

    async def ask(
        self, request: Mapping[str, Any], *, deadline_s: float, grace_s: float
    ) -> dict[str, Any]:
        """Send a request and return the reply; raise AttemptFailed if none comes.

        Args:
            request: ``problem`` and ``response``, see the worker.
            deadline_s: longest execution, enforced by the process itself.
            grace_s: time after the deadline at which this side gives up as well.
        """
        self._deadline_s = deadline_s
        # No drain(): if the socket breaks, reading finds the end of the stream and says why.
        self._writer.write(worker.pack({**request, "deadline_s": deadline_s}))
        reply = await self._receive(timeout_s=deadline_s + grace_s)
        self.num_judged += 1
        self.resident_mb = reply["resident_mb"]
        return reply

    def lower_priority(self) -> None:
        """Raise the nice value, so that the kernel prefers other processes."""
        with contextlib.suppress(ProcessLookupError):
            self._priority = os.getpriority(os.PRIO_PROCESS, self.pid)
            os.setpriority(os.PRIO_PROCESS, self.pid, self._priority + _LOW_PRIORITY)

    def restore_priority(self) -> bool:
        """Undo :meth:`lower_priority`; return False if that is not permitted."""
        if self._priority is None:
            return True
        try:
            os.setpriority(os.PRIO_PROCESS, self.pid, self._priority)
        except (PermissionError, ProcessLookupError):
            return False
        self._priority = None
        return True

    async def kill(self) -> None:
        """End the process and its children, and wait until it is gone."""
        self._is_killed_by_us = True
        self._writer.close()
        if self.is_running:
            self._kill()
        await asyncio.shield(self._ended)

    async def _receive(self, *, timeout_s: float) -> dict[str, Any]:
        try:
            async with asyncio.timeout(timeout_s):
                header = await self._reader.readexactly(worker.HEADER.size)
                (length,) = worker.HEADER.unpack(header)
                reply: dict[str, Any] = json.loads(await self._reader.readexactly(length))
                return reply
        except (asyncio.IncompleteReadError, ConnectionError):
            raise await self._failure() from None
        except TimeoutError:
            raise AttemptFailed(f"the verifier's process was silent for {timeout_s} s") from None

    async def _failure(self) -> AttemptFailed:
        """Return how a process ended whose socket is closed."""
        try:
            async with asyncio.timeout(_EXIT_TIMEOUT_S):
                code = await asyncio.shield(self._ended)
        except TimeoutError:
            self._kill()
            code = await asyncio.shield(self._ended)
        if code == -signal.SIGALRM:
            return AttemptFailed(f"the verifier exceeded its deadline of {self._deadline_s:g} s")
        if code == worker.EXIT_OUT_OF_MEMORY:
            return AttemptFailed("the verifier needed more memory than judge.memory_mb allows")
        if code < 0:
            name = signal.Signals(-code).name
            return AttemptFailed(
                f"the verifier's process was killed by {name}",
                is_infrastructure_failure=code == -signal.SIGKILL
                and self._is_killed_from_outside(),
            )
        return AttemptFailed(f"the verifier's process ended with exit code {code}")

    def _is_killed_from_outside(self) -> bool:
        """Return whether a SIGKILL came neither from us nor from a kernel short of memory."""
        if self._is_killed_by_us or self._oom_kills is None:
            return False
        return _count_oom_kills() == self._oom_kills


def _count_oom_kills() -> int | None:
    """Return how many processes of this machine the kernel has ended for lack of memory."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return None
    counts = dict(line.split() for line in lines)
    return int(counts["oom_kill"]) if "oom_kill" in counts else None
