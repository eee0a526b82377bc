"""Stacks of running Python processes, read from outside by py-spy without stopping them."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INSTALL = "pip install py-spy"
_TIMEOUT_S = 20.0
_ATTEMPTS = 3
_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One call of a stack."""

    function: str
    file: str
    """As py-spy shortens it: from the package's folder on."""
    line: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """The main thread of one process, the innermost call first."""

    pid: int
    frames: Sequence[Frame]
    others: Sequence[tuple[str, Sequence[Frame]]] = ()
    """Its other threads, by name."""


def find_py_spy() -> str | None:
    """Return where py-spy is: beside this interpreter, or on the path; None without it."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


def dump_stacks(pids: Sequence[int], *, py_spy: str) -> dict[int, Stack | str]:
    """Return the stack of each process, or why it cannot be read. The processes run on."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(zip(pids, pool.map(lambda pid: _dump(pid, py_spy), pids), strict=True))


def _dump(pid: int, py_spy: str) -> Stack | str:
    command = [py_spy, "dump", "--nonblocking", "--json", "--pid", str(pid)]
    reason = ""
    # A process that is not stopped may change while it is read; one that hangs does not.
    for _ in range(_ATTEMPTS):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return f"py-spy did not answer within {_TIMEOUT_S:.0f} s"
        if done.returncode == 0:
            return parse_stack(pid, json.loads(done.stdout))
        reason = explain(done.stderr)
    return reason


def parse_stack(pid: int, threads: Sequence[dict[str, Any]]) -> Stack:
    """Read what ``py-spy dump --json`` prints of one process."""
    by_name = [
        (str(thread["thread_name"]), [_frame(frame) for frame in thread["frames"]])
        for thread in sorted(threads, key=lambda thread: thread["os_thread_id"] != pid)
    ]
    if not by_name:
        return Stack(pid=pid, frames=[])
    return Stack(pid=pid, frames=by_name[0][1], others=by_name[1:])


def explain(message: str) -> str:
    """Say why py-spy failed, and what helps."""
    last = (message.strip().splitlines() or ["py-spy failed without a word"])[-1].strip()
    if "ermission" in message or "sudo" in message:
        return (
            f"{last}; this system lets no process look into another: run this as root, or with "
            "the capability SYS_PTRACE in a container, or set kernel.yama.ptrace_scope to 0"
        )
    return last


def _frame(frame: dict[str, Any]) -> Frame:
    file = frame["short_filename"] or frame["filename"]
    return Frame(function=str(frame["name"]), file=str(file), line=int(frame["line"]))
