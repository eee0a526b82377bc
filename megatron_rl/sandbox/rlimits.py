"""Resource limits of a contained process, and the user it runs as."""

import math
import os
import resource
import time
from pathlib import Path

from megatron_rl.sandbox.jobs import Limits

_OPEN_FILES = 64
# Tasks above those that the user runs already. Solutions may start threads but no processes; the
# margin lets the user's other programs grow without starving a contained program.
_SPARE_TASKS = 1024
# Fewer where processes are allowed: a thousand that fork take many seconds to count and kill.
_SPARE_PROCESSES = 128
_COUNT_IS_FRESH_S = 5.0
_NOBODY = 65534
# A user per sandbox: two sandboxes do not share a count of tasks, nor signal each other.
_FIRST_UID = 1_900_000_000


class TaskCount:
    """Number of tasks of a user, cached for seconds; the kernel limits tasks per user."""

    def __init__(self, uid: int) -> None:
        self._uid = uid
        self._count = 0
        self._counted_at_s = -math.inf

    def __call__(self) -> int:
        """Return the count, at most a few seconds old."""
        if time.monotonic() - self._counted_at_s > _COUNT_IS_FRESH_S:
            self._count = count_tasks(self._uid)
            self._counted_at_s = time.monotonic()
        return self._count


def count_tasks(uid: int) -> int:
    """Return the number of threads of all processes of a user."""
    count = 0
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            if entry.stat().st_uid == uid:
                # The folder has one link per thread, and two more.
                count += os.stat(f"/proc/{entry.name}/task").st_nlink - 2
        except OSError:  # the process has ended meanwhile
            continue
    return count


def sandbox_uid() -> int | None:
    """Return the user that contained programs run as, None for the user of this process.

    Root runs programs as a user that owns no file. An ordinary user cannot switch users.
    """
    if os.geteuid() != 0:
        return None
    own = _FIRST_UID + os.getpid()
    return own if _is_mapped(own) else _NOBODY if _is_mapped(_NOBODY) else None


def switch_user(uid: int) -> None:
    """Switch to this user and its group alone, for good."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def apply_limits(limits: Limits, *, num_tasks: int) -> None:
    """Bound this process; ``num_tasks`` is how many its user runs already."""
    address_space = 2 * limits.memory_mb << 20
    cpu_s = math.ceil(limits.cpu_s)
    tasks = num_tasks + (_SPARE_PROCESSES if limits.may_fork else _SPARE_TASKS)
    bounds = {
        resource.RLIMIT_AS: (address_space, address_space),
        # A judge's soft limit, which programs would inherit, may be too low for a compiler.
        resource.RLIMIT_DATA: (address_space, address_space),
        # A program can ignore the signal at the soft limit, but not that at the hard limit.
        resource.RLIMIT_CPU: (cpu_s, cpu_s + 1),
        resource.RLIMIT_FSIZE: (limits.file_bytes, limits.file_bytes),
        resource.RLIMIT_STACK: (limits.stack_mb << 20, limits.stack_mb << 20),
        resource.RLIMIT_NOFILE: (_OPEN_FILES, _OPEN_FILES),
        resource.RLIMIT_NPROC: (tasks, tasks),
        resource.RLIMIT_CORE: (0, 0),
    }
    for which, bound in bounds.items():
        _, hard = resource.getrlimit(which)
        top = bound[1] if hard == resource.RLIM_INFINITY else min(bound[1], hard)
        resource.setrlimit(which, (min(bound[0], top), top))


def _is_mapped(number: int) -> bool:
    """Return whether this user and group exist in our user namespace."""
    for kind in ("uid", "gid"):
        ranges = [line.split() for line in Path(f"/proc/self/{kind}_map").read_text().splitlines()]
        if not any(int(first) <= number < int(first) + int(n) for first, _, n in ranges):
            return False
    return True
