"""One verifier process of a judge: requests on stdin, replies on stdout, JSON behind a length.

Run as ``python -m megatron_rl.rollout.judge_worker MODULE:FUNCTION DEADLINE_S PARENT_PID``. It
says ``{"ready": true}`` once the verifier is imported, then answers one request after another,
and ends with its parent. The kernel ends it when a verdict takes longer than the deadline, even
inside C code that holds the interpreter lock.
"""

import dataclasses
import importlib
import json
import os
import signal
import struct
import sys
import time
import traceback
from typing import Any, BinaryIO

from megatron_rl.lifetime import die_with
from megatron_rl.protocols import Verifier
from megatron_rl.types import Problem

HEADER = struct.Struct(">I")
"""Length in bytes of the JSON document that follows."""


def pack(message: dict[str, Any]) -> bytes:
    """Return one message as it goes over the pipe."""
    payload = json.dumps(message).encode()
    return HEADER.pack(len(payload)) + payload


def main() -> None:
    """Serve until stdin ends."""
    name, deadline_s, parent_pid = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with(parent_pid)
    requests, replies = _claim_pipes()
    module, _, function = name.partition(":")
    verifier = getattr(importlib.import_module(module), function)
    _send(replies, {"ready": True})
    while header := requests.read(HEADER.size):
        (length,) = HEADER.unpack(header)
        _send(replies, _judge(verifier, json.loads(requests.read(length)), deadline_s))


def _judge(verifier: Verifier, request: dict[str, Any], deadline_s: float) -> dict[str, Any]:
    start_s = time.perf_counter()
    # The default action ends the process. Python's own handlers would wait for the interpreter.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, deadline_s)
    try:
        verdict = verifier(Problem(**request["problem"]), request["text"])
        reply: dict[str, Any] = {"verdict": dataclasses.asdict(verdict)}
    except Exception:  # process boundary: the parent logs the traceback and raises
        reply = {"traceback": traceback.format_exc()}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
    return {**reply, "seconds": time.perf_counter() - start_s}


def _claim_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Keep the pipes to ourselves: a verifier that reads stdin or prints must not reach them."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return requests, replies


def _send(replies: BinaryIO, message: dict[str, Any]) -> None:
    replies.write(pack(message))
    replies.flush()


if __name__ == "__main__":
    main()
