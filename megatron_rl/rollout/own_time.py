"""Time that a process has had to itself: on a busy machine it waits, and is not slow for that."""

import asyncio
from pathlib import Path
from typing import Any

_SHORTEST_WAIT_S = 0.01


async def is_done_within(asking: "asyncio.Future[Any]", pid: int, seconds: float) -> bool:
    """Return whether a process answers before it has had some time to itself.

    Sleeping counts, waiting for a processor does not. Where the kernel does not tell them apart,
    time by the clock counts.

    Args:
        asking: done when it has answered.
        pid: the process; its first thread is looked at.
        seconds: the time that it has.
    """
    ran_before_s, left_s = _ran_s(pid), seconds
    while left_s > 0:
        await asyncio.wait({asking}, timeout=max(left_s, _SHORTEST_WAIT_S))
        if asking.done():
            return True
        ran_s = _ran_s(pid)
        if ran_s is None or ran_before_s is None or not _is_ready(pid):
            return False
        left_s = seconds - (ran_s - ran_before_s)
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
