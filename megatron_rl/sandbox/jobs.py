"""Sandbox jobs and their outcomes, and the format in which both travel over a pipe."""

import dataclasses
import json
import struct
from dataclasses import dataclass
from typing import IO, Any, Protocol

from megatron_rl.errors import VerifierError

_HEADER = struct.Struct(">II")


class SandboxUnavailable(VerifierError):
    """No backend can contain a program on this machine; says how each failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits of one program and all processes that it starts."""

    cpu_s: float
    """Processor time."""
    wall_s: float
    """Time by the clock; more than ``cpu_s``, or a busy machine would fail programs."""
    memory_mb: int
    """Resident memory. Address space is bounded at twice that: reserving memory is not using it."""
    stack_mb: int
    """Stack of the main thread and default of other threads."""
    output_bytes: int
    """Bytes of stdout and stderr together."""
    file_bytes: int
    """Largest file."""
    may_fork: bool
    """Whether the program may start processes; threads are always allowed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One program to run."""

    argv: tuple[str, ...]
    """Absolute path of the program and its arguments."""
    readable: tuple[str, ...]
    """Files and folders that the program may read and execute; it sees no others."""
    writable: str | None
    """The only writable folder; None for a program that only reads stdin and prints."""
    folder: str
    """Working folder; one of ``readable``."""
    stdin: bytes
    limits: Limits


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """End of a program and of every process that it started."""

    ending: str
    """``exited``, ``killed`` (by a signal) or the limit that ended it: ``time`` (processor),
    ``wall``, ``memory`` or ``output``."""
    code: int
    """Exit status, or the number of the signal."""
    stdout: bytes
    stderr: bytes
    """First part of stderr."""
    cpu_s: float
    wall_s: float
    memory_mb: float
    """Largest resident memory of one process of the program."""

    @property
    def is_success(self) -> bool:
        """Whether the program ended by itself with status 0."""
        return self.ending == "exited" and self.code == 0


class Readable(Protocol):
    """The end of a pipe."""

    def read(self, size: int, /) -> bytes:
        """Return ``size`` bytes, fewer at the end of the pipe."""
        ...


def send_job(pipe: IO[bytes], job: Job) -> None:
    """Write a job as a header, JSON and the program's input."""
    record = dataclasses.asdict(job)
    _send(pipe, record, record.pop("stdin"))


def receive_job(pipe: Readable) -> Job | None:
    """Read what :func:`send_job` wrote; None at the end of the pipe."""
    message = _receive(pipe)
    if message is None:
        return None
    record, stdin = message
    return Job(
        argv=tuple(record.pop("argv")),
        readable=tuple(record.pop("readable")),
        limits=Limits(**record.pop("limits")),
        stdin=stdin,
        **record,
    )


def send_reply(pipe: IO[bytes], reply: Outcome | str) -> None:
    """Write an outcome, or the message of a sandbox that failed."""
    if isinstance(reply, str):
        _send(pipe, {"failure": reply}, b"")
        return
    record = dataclasses.asdict(reply)
    stdout, stderr = record.pop("stdout"), record.pop("stderr")
    _send(pipe, {**record, "stderr_bytes": len(stderr)}, stderr + stdout)


def receive_reply(pipe: Readable) -> Outcome:
    """Read what :func:`send_reply` wrote; raise VerifierError for a failure of the sandbox."""
    message = _receive(pipe)
    if message is None:
        raise VerifierError("the sandbox's own process ended")
    record, output = message
    if "failure" in record:
        raise VerifierError(f"the sandbox failed: {record['failure']}")
    split = record.pop("stderr_bytes")
    return Outcome(stderr=output[:split], stdout=output[split:], **record)


def _send(pipe: IO[bytes], record: dict[str, Any], payload: bytes) -> None:
    header = json.dumps(record).encode()
    pipe.write(_HEADER.pack(len(header), len(payload)) + header)
    pipe.write(payload)
    pipe.flush()


def _receive(pipe: Readable) -> tuple[dict[str, Any], bytes] | None:
    lengths = pipe.read(_HEADER.size)
    if len(lengths) < _HEADER.size:
        return None
    header_bytes, payload_bytes = _HEADER.unpack(lengths)
    header, payload = pipe.read(header_bytes), pipe.read(payload_bytes)
    if len(header) < header_bytes or len(payload) < payload_bytes:
        return None
    return json.loads(header), payload
