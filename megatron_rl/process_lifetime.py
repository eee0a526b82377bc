"""Process lifetime: child processes that never outlive the process that started them."""

import ctypes
import os
import signal
import subprocess
import sys

STEP_VARIABLE = "MEGATRON_RL_STEP"
"""Environment variable: name of the step of a job that a program runs in."""
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
# Reads its parent's end of a pipe, which ends with the parent however that comes about, and then
# kills its process group.
_GUARD = ("/bin/sh", "-c", "read -r _; kill -KILL 0")


def start_guard() -> "subprocess.Popen[bytes]":
    """Start a process that leads a process group and kills all of it when this process ends.

    A program started with ``process_group=guard.pid`` takes everything it starts with it. As long
    as the guard is not waited for, the number of the group cannot become another's.
    """
    return subprocess.Popen(_GUARD, stdin=subprocess.PIPE, process_group=0)


def die_with(parent_pid: int) -> None:
    """Ask Linux to kill this process when its parent ends; elsewhere do nothing."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it ended before the request took effect
        os._exit(1)


def become_step(*, hears_late: bool) -> None:
    """Make this process behave as the program of a Slurm step.

    Args:
        hears_late: it goes on ignoring SIGUSR1, with which steps are asked to stop, until it
            listens, as its step's shell did; otherwise it ends at one that comes before.
    """
    # Not every Slurm finds the orphans of a task that was killed.
    die_with(os.getppid())
    signal.signal(signal.SIGUSR1, signal.SIG_IGN if hears_late else signal.SIG_DFL)
