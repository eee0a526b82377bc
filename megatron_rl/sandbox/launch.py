"""Launch of one contained program: the steps between fork and exec, under either backend."""

import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from megatron_rl.sandbox.bubblewrap import bubblewrap_command
from megatron_rl.sandbox.jobs import Job
from megatron_rl.sandbox.landlock import restrict_files
from megatron_rl.sandbox.rlimits import apply_limits, switch_user
from megatron_rl.sandbox.seccomp import build_filter, install_filter

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_NOTHING: Mapping[str, str] = {}
_HIGHEST_OOM_SCORE = "1000"


class LaunchError(Exception):
    """The program could not be started; a fault of the sandbox, not of the program."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Container:
    """Container settings that all programs of one sandbox share."""

    backend: str
    """``bubblewrap`` or ``landlock``."""
    bwrap: str
    """Path of the bubblewrap program; empty for landlock."""
    uid: int | None
    """User to become; None to stay."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Streams:
    """Open files of a program to be started."""

    stdin: int
    stdout: int
    stderr: int
    status: int
    """Pipe to which bubblewrap writes its status."""


def launch(container: Container, job: Job, streams: Streams, *, num_tasks: int) -> int:
    """Start the program and return its process; raise LaunchError when that fails."""
    fault_read, fault_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become_program(container, job, streams, num_tasks, fault_write)
    os.close(fault_write)
    with os.fdopen(fault_read, "rb") as faults:
        fault = faults.read()  # ends when exec closes the other end
    if fault:
        os.waitpid(pid, 0)
        raise LaunchError(fault.decode(errors="replace"))
    return pid


def _become_program(
    container: Container, job: Job, streams: Streams, num_tasks: int, fault_fd: int
) -> NoReturn:
    try:
        _exec_program(container, job, streams, num_tasks)
    except BaseException as error:  # process boundary: the parent raises it
        os.write(fault_fd, f"cannot start {job.argv[0]}: {error!r}".encode())
    finally:
        os._exit(127)


def _exec_program(container: Container, job: Job, streams: Streams, num_tasks: int) -> None:
    os.setsid()  # no terminal, and a process group that one signal can end
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):  # signals that Python ignores
        signal.signal(number, signal.SIG_DFL)
    _raise_oom_score()
    for target, source in enumerate((streams.stdin, streams.stdout, streams.stderr)):
        os.dup2(source, target, inheritable=True)
    if container.uid is not None:
        switch_user(container.uid)
    if container.backend == "bubblewrap":
        argv, environment = _contain_by_namespaces(container, job, streams.status), _NOTHING
        apply_limits(job.limits, num_tasks=num_tasks)
    else:
        argv, environment = list(job.argv), _environment(job)
        apply_limits(job.limits, num_tasks=num_tasks)
        _contain_by_landlock(job)
    os.execve(argv[0], argv, environment)


def _contain_by_namespaces(container: Container, job: Job, status_fd: int) -> list[str]:
    program = build_filter(os.uname().machine, may_fork=job.limits.may_fork, own_pid=None)
    seccomp_fd = os.memfd_create("filter", 0)
    os.write(seccomp_fd, program)
    os.lseek(seccomp_fd, 0, os.SEEK_SET)
    os.set_inheritable(status_fd, True)
    return bubblewrap_command(
        container.bwrap,
        job.argv,
        readable=job.readable,
        writable=job.writable,
        folder=job.folder,
        environment=_environment(job),
        seccomp_fd=seccomp_fd,
        status_fd=status_fd,
    )


def _contain_by_landlock(job: Job) -> None:
    os.chdir(job.folder)
    # The program ends with us; the filter keeps it from undoing that.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    program = build_filter(os.uname().machine, may_fork=job.limits.may_fork, own_pid=os.getpid())
    restrict_files(job.readable, job.writable)
    install_filter(program)


def _environment(job: Job) -> Mapping[str, str]:
    """Return the program's environment, which has no variable of ours."""
    scratch = {} if job.writable is None else {"TMPDIR": job.writable}
    # One arena: glibc otherwise reserves 128 MiB of address space per thread.
    return {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": job.folder,
        "MALLOC_ARENA_MAX": "1",
        **scratch,
    }


def _raise_oom_score() -> None:
    """Raise this process's OOM score, so that the kernel kills it and not the trainer."""
    if sys.platform == "linux":
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(_HIGHEST_OOM_SCORE)
