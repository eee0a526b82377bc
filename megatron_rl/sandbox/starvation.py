"""CPU starvation of a program that ran out of time: time spent waiting for a processor."""

import contextlib
import os


def waited_and_ran_s() -> tuple[float, float]:
    """Return (waited, ran) in seconds, of all descendants of this process.

    ``waited`` is the longest time that one thread was ready without a processor, ``ran`` the
    processor time of all threads that still exist. Both are 0 where the kernel does not count.
    """
    longest_ns = total_ns = 0
    for pid in _descendants(os.getpid()):
        with contextlib.suppress(OSError, IndexError):  # it has ended, or the kernel has no count
            for thread in os.scandir(f"/proc/{pid}/task"):
                with open(f"{thread.path}/schedstat") as file:
                    ran_ns, waited_ns, _ = map(int, file.read().split())
                longest_ns, total_ns = max(longest_ns, waited_ns), total_ns + ran_ns
    return longest_ns / 1e9, total_ns / 1e9


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdigit():
                with open(f"/proc/{entry}/stat") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry))
    found: list[int] = []
    todo = [root]
    while todo:
        below = children.pop(todo.pop(), [])
        todo += below
        found += below
    return found
