"""Verifier process: requests in, verdicts out, JSON behind a length, on one socket.

The process is forked by the fork server. The kernel ends the process when a verdict takes longer
than the deadline, even inside C code that holds the interpreter lock.
"""

import contextlib
import dataclasses
import json
import os
import resource
import signal
import socket
import struct
import time
import traceback
from pathlib import Path
from typing import Any, BinaryIO

from megatron_rl.protocols import GradeFn
from megatron_rl.types import Problem, Response

HEADER = struct.Struct(">I")
"""Length in bytes of the JSON document that follows."""
EXIT_OUT_OF_MEMORY = 77
"""Exit code of a process whose verdict needs more memory than its limit."""


def pack(message: dict[str, Any]) -> bytes:
    """Return one message as it goes over the socket."""
    payload = json.dumps(message).encode()
    return HEADER.pack(len(payload)) + payload


def serve(connection: socket.socket, verifier: GradeFn, *, memory_mb: int) -> None:
    """Judge until the other side closes the socket.

    Args:
        connection: to the process that asks.
        verifier: returns the verdicts.
        memory_mb: largest memory of this process, MiB.
    """
    limit_memory(memory_mb)
    # The other side may close while we judge.
    with connection.makefile("rb") as requests, contextlib.suppress(ConnectionError):
        while (request := _receive(requests)) is not None:
            connection.sendall(pack(_judge(verifier, request)))


def limit_memory(memory_mb: int) -> None:
    """Bound the memory of this process, and make it the first that the kernel ends."""
    # Only the soft limit: programs of a verifier, such as a compiler, may raise their own.
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = memory_mb << 20
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with contextlib.suppress(OSError):  # not Linux, or not permitted
        Path("/proc/self/oom_score_adj").write_text("500")


def _judge(verifier: GradeFn, request: dict[str, Any]) -> dict[str, Any]:
    start_s = time.perf_counter()
    # The default action ends the process. Python's own handlers would wait for the interpreter.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, request["deadline_s"])
    try:
        verdict = verifier(Problem(**request["problem"]), Response(**request["response"]))
        reply: dict[str, Any] = {"verdict": dataclasses.asdict(verdict)}
    except MemoryError:
        os._exit(EXIT_OUT_OF_MEMORY)
    except Exception:  # process boundary: the parent logs the traceback and raises
        reply = {"traceback": traceback.format_exc()}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
    seconds = time.perf_counter() - start_s
    return {**reply, "seconds": seconds, "resident_mb": _resident_mb()}


def _resident_mb() -> float:
    """Return the memory in use, MiB; 0 where /proc does not say."""
    # Not ru_maxrss, which a process inherits from the one that started it.
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * resource.getpagesize() / (1 << 20)


def _receive(requests: BinaryIO) -> dict[str, Any] | None:
    """Return the next message, None once the other side has closed the socket."""
    header = requests.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (length,) = HEADER.unpack(header)
    payload = requests.read(length)
    return json.loads(payload) if len(payload) == length else None
