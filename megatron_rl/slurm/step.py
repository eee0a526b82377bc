"""Slurm step (one srun): start, request to stop, and outcome read from its tasks' exit codes."""

import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_rl.errors import ProgramError

EXIT_RESUME = 75
"""Of a program that saved because time was up; srun is told 0, see placement.srun."""
KILL_S = 4.0
"""Time srun gets to have tasks killed."""
_TAIL_LINES = 30
_FULL_BYTES = 2**16
_FULL_MESSAGES = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
_YOUNG_S = 3.0
"""Until then srun, or the shell of a task, may not be ready for a signal, and would die of it."""


# 128 + the signal. A task that something outside itself killed, or that crashed, is not following
# another; SIGABRT is how NCCL's watchdog follows, and SIGTERM how srun has a task follow.
_CULPRITS = frozenset(
    128 + number
    for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
)
_FOLLOWS = 128 + signal.SIGTERM


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskEnd:
    """How one task ended."""

    time_ns: int
    """By the clock of its own node."""
    code: int
    task: int


def culprit(ends: Iterable[TaskEnd]) -> TaskEnd | None:
    """Return which of the tasks that failed drew the others along; None when none failed.

    Clocks of nodes differ by more than tasks take to follow, so how a task ended comes before when.
    """
    failed = [end for end in ends if end.code not in (0, EXIT_RESUME)]
    return min(failed, key=_suspicion_order) if failed else None


def _suspicion_order(end: TaskEnd) -> tuple[bool, bool, int, int]:
    return end.code not in _CULPRITS, end.code == _FOLLOWS, end.time_ns, end.task


class Step:
    """A role under way."""

    def __init__(
        self,
        program: str,
        name: str,
        argv: Sequence[str],
        environment: Mapping[str, str],
        *,
        logs: Path,
        exits: Path,
    ) -> None:
        """Start it.

        Args:
            program: command of megatron-rl.
            name: of the role.
            argv: the srun command, see placement.srun.
            environment: the whole environment of the tasks.
            logs: where the tasks write; srun's own complaints go to ``NAME.srun.log`` there.
            exits: where the tasks leave their exit codes.
        """
        self.program, self.name = program, name
        self._logs, self._exits = logs, exits
        for stale in exits.glob(f"{name}_*"):
            stale.unlink()
        self._complaints = logs / f"{name}.srun.log"
        self._started = time.monotonic()
        with self._complaints.open("ab") as output:
            self._process = subprocess.Popen(
                argv,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """Return None while all is well, 0 when all went well, else the code of whom to blame.

        A task that failed counts at once: srun ends only once Slurm has killed the other tasks,
        which takes it half a minute where they do not listen.
        """
        ends = self._ends()
        first = culprit(ends)
        if first is not None:
            return first.code
        code = self._process.poll()
        if code == 0 and any(end.code == EXIT_RESUME for end in ends):
            return EXIT_RESUME
        return code

    @property
    def is_running(self) -> bool:
        """Whether a task may still live, also of a step that has failed."""
        return self._process.poll() is None

    def ask_to_stop(self) -> None:
        """Ask the tasks to save and stop; to be repeated, since who still starts does not hear it.

        By SIGUSR1, which srun hands on to them; at SIGTERM it kills them as well.
        """
        is_young = time.monotonic() - self._started < _YOUNG_S
        if self.is_running and not is_young:
            self._process.send_signal(signal.SIGUSR1)

    def terminate(self) -> None:
        """Have srun kill the tasks; it does so at its first SIGTERM."""
        if self.is_running:
            self._process.terminate()

    def wait(self, timeout_s: float) -> None:
        """Wait for srun's end, and kill it if that does not come; Slurm ends what is left."""
        try:
            self._process.wait(timeout=max(0.0, timeout_s))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        """End the tasks of this step alone, as far as srun still can."""
        self.terminate()
        self.wait(KILL_S)

    def failure(self) -> ProgramError:
        """Describe how it ended, with the last lines of the log of the task that failed first."""
        first = culprit(self._ends())
        if first is None:
            return ProgramError(
                self.program,
                f"{self.name} ended with exit code {self.poll()} (of srun; no task left its own: "
                f"{self._suspicion()}); the last lines of {self._complaints}:\n"
                + _tail(self._complaints),
            )
        logs = [self._logs / f"{self.name}_{first.task}.log", self._logs / f"{self.name}.log"]
        log = next((path for path in logs if path.exists()), self._complaints)
        return ProgramError(
            self.program,
            f"{self.name} ended with exit code {first.code} (task {first.task}); "
            f"{self._no_space(log)}the last lines of {log}:\n{_tail(log)}",
        )

    def _no_space(self, log: Path) -> str:
        """Say so where a task could not write; a quota leaves the disk itself with room."""
        text = _tail(log)
        if not any(message in text for message in _FULL_MESSAGES):
            return ""
        return f"the disk of {self._logs} is full, or your quota of it; free space there; "

    def _suspicion(self) -> str:
        """Say what keeps a task from leaving its exit code."""
        if shutil.disk_usage(self._logs).free < _FULL_BYTES:
            return f"the disk of {self._logs} is full; free space there and submit again"
        if self._no_space(self._complaints):
            return f"your quota on the disk of {self._logs} is used up; free space there"
        return "a node may be lost"

    def _ends(self) -> list[TaskEnd]:
        ends = []
        for path in self._exits.glob(f"{self.name}_*"):
            words = path.read_text().split()
            if len(words) == 2:  # else it is being written
                task = int(path.name.rpartition("_")[2])
                ends.append(TaskEnd(time_ns=int(words[1]), code=int(words[0]), task=task))
        return ends


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
