"""Processes that never outlive the process that started them, however that one ends."""

import ctypes
import functools
import os
import signal
import sys
from collections.abc import Callable

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> Callable[[], None]:
    """Return a ``preexec_fn`` that makes the child die with this process."""
    return functools.partial(die_with, os.getpid())


def die_with(parent_pid: int) -> None:
    """Ask Linux to kill this process when its parent ends; elsewhere do nothing."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it ended before the request took effect
        os._exit(1)
