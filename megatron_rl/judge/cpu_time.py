"""CPU time of a process: on a busy machine a process that waits for a processor is not slow."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SHORTEST_WAIT_S, _LONGEST_WAIT_S = 0.005, 0.02


async def is_done_within(
    asking: "asyncio.Future[Any]", pid: int, seconds: Callable[[], float]
) -> bool:
    """Return whether a process answers before it has used up some processor time.

    Time asleep counts, time spent waiting for a processor does not. Where the kernel does not tell
    the two apart, time by the clock counts.

    Args:
        asking: done when the process has answered.
        pid: the process; only its first thread is measured.
        seconds: returns the time allowed; called repeatedly, for it may change.
    """
    ran_before_s, asked_s = _ran_s(pid), time.monotonic()
    left_s = seconds()
    while left_s > 0:
        timeout_s = min(max(left_s, _SHORTEST_WAIT_S), _LONGEST_WAIT_S)
        await asyncio.wait({asking}, timeout=timeout_s)
        if asking.done():
            return True
        ran_s, had_s = _ran_s(pid), time.monotonic() - asked_s
        if ran_s is not None and ran_before_s is not None and _is_ready(pid):
            had_s = ran_s - ran_before_s
        left_s = seconds() - had_s
    return False


def _ran_s(pid: int) -> float | None:
    try:
        ran_ns, *_ = Path(f"/proc/{pid}/schedstat").read_text().split()
    except (OSError, ValueError):
        return None
    return int(ran_ns) / 1e9


def _is_ready(pid: int) -> bool:
    """Return whether a process runs or waits for a processor, rather than sleeps."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "R"
    except (OSError, IndexError):
        return False
