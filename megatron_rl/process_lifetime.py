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
# The guard reads a pipe that closes when its parent ends in any way, and then kills its process
# group.
_GUARD = ("/bin/sh", "-c", "read -r _; kill -KILL 0")


def start_guard() -> "subprocess.Popen[bytes]":
    """Start a process that leads a process group and kills all of it when this process ends.

    A program started with ``process_group=guard.pid`` ends with its own children. As long as the
    guard is not waited for, the number of its group cannot be reused.
    """
    return subprocess.Popen(_GUARD, stdin=subprocess.PIPE, process_group=0)


def die_with(parent_pid: int) -> None:
    """Ask Linux to kill this process when its parent ends; elsewhere do nothing."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # the parent ended before the request took effect
        os._exit(1)


def become_step(*, hears_late: bool) -> None:
    """Make this process behave as the program of a Slurm step.

    Args:
        hears_late: whether the process ignores SIGUSR1, which asks a step to stop, until it sets a
            handler, as its step's shell did; otherwise a SIGUSR1 before that ends it.
    """
    # Not every Slurm kills the orphans of a killed task.
    die_with(os.getppid())
    signal.signal(signal.SIGUSR1, signal.SIG_IGN if hears_late else signal.SIG_DFL)
