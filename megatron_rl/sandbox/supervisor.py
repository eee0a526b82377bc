"""Sandbox supervisor: the process between a judge and untrusted programs, one job at a time.

Run as ``python -m megatron_rl.sandbox.supervisor BACKEND UID BWRAP``. The supervisor is small, so
that starting a program is cheap; it inherits the orphans of every program, so that none survives
its job; and it never learns what output a test expects, so that no program can find that output.
"""

import ctypes
import fcntl
import functools
import json
import os
import select
import signal
import sys
from typing import BinaryIO

from megatron_rl.sandbox.jobs import Job, Outcome, receive_job, send_reply
from megatron_rl.sandbox.launch import Container, LaunchError, Streams, launch
from megatron_rl.sandbox.rlimits import TaskCount
from megatron_rl.sandbox.watch import Observation, StarvedError, SweepError, watch

_PR_SET_CHILD_SUBREAPER = 36
_PIPE_BYTES = 1 << 20
_F_SEAL_EVERYTHING = 0x000F
_F_ADD_SEALS = 1033


def main() -> None:
    """Serve until stdin ends."""
    backend, uid, bwrap = sys.argv[1:]
    requests, replies = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    container = Container(backend=backend, bwrap=bwrap, uid=int(uid) if uid else None)
    count_tasks = TaskCount(os.getuid() if container.uid is None else container.uid)
    is_abandoned = functools.partial(_has_hung_up, requests.fileno())
    while (job := receive_job(_Reader(requests))) is not None:
        try:
            seen, status = _run(container, job, count_tasks(), is_abandoned)
            reply: Outcome | str = _outcome(container, job, seen, status)
        except (LaunchError, StarvedError, SweepError, _KilledError, OSError) as error:
            reply = str(error)
        try:
            send_reply(replies, reply)
        except BrokenPipeError:
            return


class _KilledError(Exception):
    """The program was killed from outside."""


class _Reader:
    """Reader without a buffer, so that poll sees every byte that is left in the pipe."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes, fewer at the end of the pipe."""
        parts = bytearray()
        while len(parts) < size and (part := self._pipe.read(min(size - len(parts), _PIPE_BYTES))):
            parts += part
        return bytes(parts)


def _has_hung_up(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(0))


def _run(
    container: Container, job: Job, num_tasks: int, is_abandoned: "functools.partial[bool]"
) -> tuple[Observation, bytes]:
    """Run a program; return the observation of it and bubblewrap's report about it."""
    stdin = _sealed(job.stdin)
    stdout, stdout_write = os.pipe()
    stderr, stderr_write = os.pipe()
    status, status_write = os.pipe()
    if (
        container.uid is not None
    ):  # so that the program may open /dev/stdout, as an ordinary user's may
        for pipe in (stdout_write, stderr_write):
            os.fchown(pipe, container.uid, container.uid)
    streams = Streams(stdin=stdin, stdout=stdout_write, stderr=stderr_write, status=status_write)
    try:
        try:
            pid = launch(container, job, streams, num_tasks=num_tasks)
        except BaseException:
            os.close(stdout)
            os.close(stderr)
            raise
        finally:
            for fd in (stdin, stdout_write, stderr_write, status_write):
                os.close(fd)
        seen = watch(pid, stdout, stderr, job.limits, is_abandoned=is_abandoned)
        return seen, os.read(status, _PIPE_BYTES)
    finally:
        os.close(status)


def _sealed(data: bytes) -> int:
    """Return a sealed file in memory with these bytes, at its start."""
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    fcntl.fcntl(fd, _F_ADD_SEALS, _F_SEAL_EVERYTHING)
    return fd


def _outcome(container: Container, job: Job, seen: Observation, status: bytes) -> Outcome:
    if container.backend == "bubblewrap" and seen.broken_limit is None:
        exited, code = _from_bubblewrap(seen, status)
    else:
        exited, code = os.WIFEXITED(seen.status), _code(seen.status)
    limits = job.limits
    ending = "exited" if exited else "killed"
    if seen.broken_limit is not None:
        ending = seen.broken_limit
    elif seen.cpu_s > limits.cpu_s:
        ending = "time"
    elif seen.memory_mb > limits.memory_mb:
        ending = "memory"
    elif (ending, code) == ("killed", signal.SIGKILL):
        # The filter lets no program kill itself: the kernel or a person was short of
        # memory or of patience.
        raise _KilledError("a program within its limits was killed from outside")
    return Outcome(
        ending=ending,
        code=code,
        stdout=bytes(seen.stdout[: limits.output_bytes]),
        stderr=bytes(seen.stderr),
        cpu_s=seen.cpu_s,
        wall_s=seen.wall_s,
        memory_mb=seen.memory_mb,
    )


def _from_bubblewrap(seen: Observation, status: bytes) -> tuple[bool, int]:
    """Return whether the program inside exited, and its status or signal.

    Raises:
        LaunchError: bubblewrap failed before it started the program.
    """
    codes = [json.loads(line).get("exit-code") for line in status.splitlines()]
    code = next((code for code in codes if code is not None), None)
    if code is None:
        message = bytes(seen.stderr).decode(errors="replace").strip()
        raise LaunchError(f"bubblewrap ended with status {_code(seen.status)}: {message[:500]}")
    # As in a shell, the status of a signal is 128 plus its number.
    return (False, code - 128) if 128 < code < 128 + 65 else (True, code)


def _code(status: int) -> int:
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else os.WTERMSIG(status)


if __name__ == "__main__":
    main()
