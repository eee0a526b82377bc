"""Child processes of a launcher: started with a log each, watched, stopped together."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

from megatron_rl.errors import ProgramError
from megatron_rl.process_lifetime import start_guard

_TAIL_LINES = 30
_POLL_S = 0.05


class Child:
    """One program and all it starts, in a process group that Ctrl-C in the terminal spares."""

    def __init__(
        self,
        program: str,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
    ) -> None:
        """Start ``megatron-rl ARGUMENTS``; its output is appended to ``log``."""
        self.program = program
        self.name = name
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        # Megatron's checkpoints leave helper processes behind that only a signal ends.
        self._guard = start_guard()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "megatron_rl", *arguments],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=self._guard.pid,
            )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask the program to stop."""
        if self.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """Kill whatever is left of the program's process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._guard.pid, signal.SIGKILL)
        self._guard.wait()
        self._process.wait()

    def failure(self) -> ProgramError:
        """Describe how it ended, with the last lines of its log."""
        lines = self._log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return ProgramError(
            self.program,
            f"{self.name} ended with exit code {self.poll()}; the last lines of {self._log}:\n"
            + "\n".join(lines),
        )


class Supervisor:
    """Every child of one run. Leaving the context leaves no process behind."""

    def __init__(self, *, grace_s: float) -> None:
        """Give children ``grace_s`` seconds to finish what they do when they are stopped."""
        self._grace_s = grace_s
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(self._children)

    def start(
        self,
        program: str,
        name: str,
        arguments: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str],
    ) -> Child:
        """Start and keep one child."""
        child = Child(program, name, arguments, environment, log)
        self._children.append(child)
        return child

    def stop(self, children: Iterable[Child]) -> None:
        """Ask these children to stop, wait for the grace period, kill what is left."""
        leaving = list(children)
        for child in leaving:
            child.terminate()
        deadline = time.monotonic() + self._grace_s
        while time.monotonic() < deadline and any(child.poll() is None for child in leaving):
            time.sleep(_POLL_S)
        for child in leaving:
            child.kill()
        self._children = [child for child in self._children if child not in leaving]
