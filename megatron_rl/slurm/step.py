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
"""Exit code of a program that saved because time was up; srun gets 0, see placement.srun."""
KILL_S = 4.0
"""Time for srun to have tasks killed."""
_TAIL_LINES = 30
_FULL_BYTES = 2**16
_FULL_MESSAGES = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))
_SIGNAL_READY_S = 3.0
"""Age of a step from which srun and the tasks' shells handle signals; one before kills them."""


# 128 + the signal. A task that crashed or was killed from outside failed first. A task that fails
# because another has failed ends by SIGABRT (NCCL's watchdog) or SIGTERM (srun).
_CRASH_CODES = frozenset(
    128 + number
    for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
)
_KILLED_BY_SRUN_CODE = 128 + signal.SIGTERM


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskEnd:
    """End of one task."""

    time_ns: int
    """Time of the end, by the clock of the task's node."""
    code: int
    task: int


def culprit(ends: Iterable[TaskEnd]) -> TaskEnd | None:
    """Return the failed task that made the others fail; None when none failed.

    Clocks of nodes differ by more than the time until other tasks fail as well, so the exit code of
    a task counts before the time of its end.
    """
    failed = [end for end in ends if end.code not in (0, EXIT_RESUME)]
    return min(failed, key=_blame_order) if failed else None


def _blame_order(end: TaskEnd) -> tuple[bool, bool, int, int]:
    return end.code not in _CRASH_CODES, end.code == _KILLED_BY_SRUN_CODE, end.time_ns, end.task


class Step:
    """Running srun step of one role."""

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
        """Start the step.

        Args:
            program: command of megatron-rl.
            name: name of the role.
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
        """Return None while the step runs, 0 after success, else the exit code of the culprit.

        A failed task counts at once: srun ends only after Slurm has killed the other tasks, which
        takes half a minute if they ignore signals.
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
        """Ask the tasks to save and stop; to be repeated, since tasks that start ignore it.

        Sends SIGUSR1, which srun forwards to the tasks; on SIGTERM srun would kill them.
        """
        is_young = time.monotonic() - self._started < _SIGNAL_READY_S
        if self.is_running and not is_young:
            self._process.send_signal(signal.SIGUSR1)

    def terminate(self) -> None:
        """Have srun kill the tasks, which its first SIGTERM does."""
        if self.is_running:
            self._process.terminate()

    def wait(self, timeout_s: float) -> None:
        """Wait for srun's end, then kill srun; Slurm ends the tasks that are left."""
        try:
            self._process.wait(timeout=max(0.0, timeout_s))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        """End the tasks of this step, as far as srun still can."""
        self.terminate()
        self.wait(KILL_S)

    def failure(self) -> ProgramError:
        """Describe the step's failure, with the last lines of the log of the task to blame."""
        first = culprit(self._ends())
        if first is None:
            return ProgramError(
                self.program,
                f"{self.name} ended with exit code {self.poll()} (of srun; no task left its own: "
                f"{self._why_no_exit_code()}); the last lines of {self._complaints}:\n"
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
        """Return a remedy if the log shows a full disk or quota, else an empty string."""
        text = _tail(log)
        if not any(message in text for message in _FULL_MESSAGES):
            return ""
        return f"the disk of {self._logs} is full, or your quota of it; free space there; "

    def _why_no_exit_code(self) -> str:
        """Return the probable reason why no task left its exit code."""
        if shutil.disk_usage(self._logs).free < _FULL_BYTES:
            return f"the disk of {self._logs} is full; free space there and submit again"
        if self._no_space(self._complaints):
            return f"your quota on the disk of {self._logs} is used up; free space there"
        return "a node may be lost"

    def _ends(self) -> list[TaskEnd]:
        ends = []
        for path in self._exits.glob(f"{self.name}_*"):
            words = path.read_text().split()
            if len(words) == 2:  # otherwise the file is being written
                task = int(path.name.rpartition("_")[2])
                ends.append(TaskEnd(time_ns=int(words[1]), code=int(words[0]), task=task))
        return ends


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
