"""Watchdog of one contained program: its output, its time, its end, and its descendants' end."""

import contextlib
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from megatron_rl.sandbox.jobs import Limits
from megatron_rl.sandbox.starvation import waited_and_ran_s

_CHUNK = 1 << 16
_MESSAGE_BYTES = 4096
_SWEEP_S = 30.0  # a busy machine takes seconds to end a thousand tasks
_SWEEP_PAUSE_S = 0.0005


class StarvedError(Exception):
    """The machine was too busy to give the program the time it is allowed."""


class SweepError(Exception):
    """A process that the program started is still alive."""


@dataclass(kw_only=True, slots=True)
class Observation:
    """Observation of a program; grows while the program runs."""

    stdout: bytearray
    stderr: bytearray
    """First part of stderr."""
    num_bytes: int = 0
    """Size of stdout and stderr, dropped parts included."""
    broken_limit: str | None = None
    """``wall`` or ``output``."""
    status: int = 0
    """Status as waitpid returns it."""
    cpu_s: float = 0.0
    memory_mb: float = 0.0
    wall_s: float = 0.0


def watch(
    pid: int, stdout: int, stderr: int, limits: Limits, *, is_abandoned: Callable[[], bool]
) -> Observation:
    """Follow a program to its end, or end it, and leave no process of it alive.

    Args:
        pid: the program; leader of its process group.
        stdout: our end of its stdout pipe; closed on return.
        stderr: our end of its stderr pipe; closed on return.
        limits: only time by the clock and output are enforced here.
        is_abandoned: called repeatedly; returns whether the client is gone.

    Raises:
        StarvedError, SweepError: the run says nothing about the program.
    """
    seen = Observation(stdout=bytearray(), stderr=bytearray())
    start_s = time.monotonic()
    process = os.pidfd_open(pid)
    try:
        _follow(process, {stdout: seen.stdout, stderr: seen.stderr}, seen, limits, is_abandoned)
    finally:
        os.close(process)
        _sweep(pid, seen)
        # Output that the pipes still hold when all processes are dead.
        for fd, kept in ((stdout, seen.stdout), (stderr, seen.stderr)):
            _drain(fd, kept, seen, limits, is_message=kept is seen.stderr)
            os.close(fd)
    seen.wall_s = time.monotonic() - start_s
    return seen


def _follow(
    process: int,
    streams: dict[int, bytearray],
    seen: Observation,
    limits: Limits,
    is_abandoned: Callable[[], bool],
) -> None:
    """Collect output until the program ends or breaks a limit."""
    poll = select.poll()
    for fd in (process, *streams):
        poll.register(fd, select.POLLIN)
        os.set_blocking(fd, False)
    end_s = time.monotonic() + limits.wall_s
    while True:
        left_s = end_s - time.monotonic()
        if left_s <= 0 or is_abandoned():
            seen.broken_limit = "wall"
            _check_starvation(limits)
            return
        for fd, _ in poll.poll(min(left_s, 1.0) * 1000):
            if fd == process:  # a pipe may stay open after the program's end: do not wait for it
                return
            if not _read(fd, streams[fd], seen, is_message=streams[fd] is seen.stderr):
                poll.unregister(fd)
        if seen.num_bytes > limits.output_bytes:
            seen.broken_limit = "output"
            return


def _check_starvation(limits: Limits) -> None:
    """Raise StarvedError unless the program could have used its processor time.

    Time running and time asleep count as the program's: once they add up to its limit, the program
    is to blame. Threads that compete with each other for processors do run.
    """
    waited_s, ran_s = waited_and_ran_s()
    if limits.wall_s - waited_s < limits.cpu_s and ran_s < limits.cpu_s:
        raise StarvedError(f"a program waited {waited_s:.1f} s for a processor and got {ran_s:.1f}")


def _read(fd: int, kept: bytearray, seen: Observation, *, is_message: bool) -> bool:
    """Read the available output; return whether more may come."""
    try:
        data = os.read(fd, _CHUNK)
    except BlockingIOError:
        return True
    seen.num_bytes += len(data)
    kept += data[: _MESSAGE_BYTES - len(kept)] if is_message else data
    return bool(data)


def _drain(
    fd: int, kept: bytearray, seen: Observation, limits: Limits, *, is_message: bool
) -> None:
    while seen.broken_limit is None:
        before = seen.num_bytes
        _read(fd, kept, seen, is_message=is_message)
        if seen.num_bytes == before:
            return
        if seen.num_bytes > limits.output_bytes:
            seen.broken_limit = "output"


def _sweep(pid: int, seen: Observation) -> None:
    """Kill the program's group and reap every child of this process, orphans included.

    The kernel signals a group in one step, which no chain of forks can outrun, and the filter
    keeps programs in their group. A namespace dies with its first process, but not at once.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # once, while its number cannot belong to another process
    end_s = time.monotonic() + _SWEEP_S
    while time.monotonic() < end_s:
        try:
            reaped, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if reaped == 0:
            time.sleep(_SWEEP_PAUSE_S)
            continue
        if reaped == pid:
            seen.status = status
        _add(seen, usage)
    raise SweepError(f"a process of the program outlived SIGKILL by {_SWEEP_S} s")


def _add(seen: Observation, usage: "resource.struct_rusage") -> None:
    seen.cpu_s += usage.ru_utime + usage.ru_stime
    seen.memory_mb = max(seen.memory_mb, usage.ru_maxrss / 1024)
