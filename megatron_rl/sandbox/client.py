"""Sandbox client: starts a supervisor, sends it jobs, ends it."""

import contextlib
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import megatron_rl
from megatron_rl.errors import VerifierError
from megatron_rl.sandbox import supervisor
from megatron_rl.sandbox.interpreter import Interpreter, interpreters
from megatron_rl.sandbox.jobs import Job, Outcome, SandboxUnavailable, receive_reply, send_job
from megatron_rl.sandbox.landlock import landlock_version
from megatron_rl.sandbox.rlimits import sandbox_uid
from megatron_rl.sandbox.seccomp import is_supported
from megatron_rl.sandbox.selftest import find_leak

BACKENDS = ("bubblewrap", "landlock")
"""Backends in the order of preference."""

_EXIT_TIMEOUT_S = 10.0

logger = logging.getLogger(__name__)


class Sandbox:
    """Runs untrusted programs, one at a time, under a backend that passed its self-test."""

    def __init__(self, backend: str, interpreter: Interpreter) -> None:
        """Start the supervisor; use :func:`open_sandbox`, which also tests it."""
        self.backend = backend
        self.python = interpreter
        self.uid = sandbox_uid()
        """User that programs run as; None for the user of this process."""
        user = "" if self.uid is None else str(self.uid)
        bwrap = shutil.which("bwrap") if backend == "bubblewrap" else None
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", supervisor.__name__, backend, user, bwrap or ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Our environment holds secrets; nothing of it reaches a program or the supervisor.
            env={
                "PATH": os.defpath,
                "PYTHONPATH": str(Path(megatron_rl.__file__).parents[1]),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            cwd="/",
            # A signal to our process group does not end the supervisor: the supervisor sees its
            # pipe close, and then ends its programs, which have their own groups.
            process_group=0,
        )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def run(self, job: Job) -> Outcome:
        """Run a program to its end; nothing it started is alive afterwards.

        Raises:
            VerifierError: the sandbox could not run the program, through no fault of the program.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            send_job(self._process.stdin, job)
        except BrokenPipeError:
            raise VerifierError("the sandbox's own process ended") from None
        return receive_reply(self._process.stdout)

    def close(self) -> None:
        """End the supervisor and, if one still runs, its program."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def open_sandbox(backend: str) -> Sandbox:
    """Return a sandbox that has passed its self-test; close it after use.

    Args:
        backend: one of BACKENDS, or ``auto`` for the first of them that passes.

    Raises:
        SandboxUnavailable: none passes; says what failed for each.
    """
    failures = []
    for name in BACKENDS if backend == "auto" else (backend,):
        fault = _find_obstacle(name)
        if fault is None:
            sandbox, fault = _try(name)
            if sandbox is not None:
                logger.info("untrusted code runs under %s", name)
                return sandbox
        failures.append(f"{name}: {fault}")
    raise SandboxUnavailable(
        "untrusted code cannot be contained on this machine, so none is run: "
        + "; ".join(failures)
        + " (install bubblewrap, or use a kernel with landlock)"
    )


def _find_obstacle(backend: str) -> str | None:
    """Return what a backend lacks, as far as that is known without a self-test."""
    if sys.platform != "linux" or not is_supported():
        return "seccomp filters are written for Linux on x86_64 and aarch64 only"
    if backend == "bubblewrap" and shutil.which("bwrap") is None:
        return "there is no program bwrap in PATH"
    if backend == "landlock" and landlock_version() < 1:
        return "the kernel has no landlock"
    return None


def _try(backend: str) -> tuple[Sandbox | None, str]:
    """Return a sandbox that passed its self-test, or the reason why it did not."""
    fault = "there is no Python interpreter that the sandbox's user can reach; install one in /usr"
    for interpreter in interpreters(sandbox_uid()):
        sandbox = Sandbox(backend, interpreter)
        try:
            leak = find_leak(sandbox.run, interpreter)
        except VerifierError as error:
            leak = str(error)
        if leak is None:
            return sandbox, ""
        sandbox.close()
        fault = leak
    return None, fault
