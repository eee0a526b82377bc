"""One srun step: started, asked to stop, and its true outcome read from what its tasks left."""

import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_rl.errors import ProgramError

_TAIL_LINES = 30
_KILL_S = 5.0
_FULL_BYTES = 2**16
_YOUNG_S = 3.0
"""Until then srun, or the shell of a task, may not be ready for a signal, and would die of it."""


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class TaskEnd:
    """How one task ended. Earlier ends come first."""

    time_ns: int
    code: int
    task: int


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
            argv: the srun command, see planning.srun.
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
        """Return None while it runs, 0 when all went well, else the code of the first to fail."""
        code = self._process.poll()
        if code in (None, 0):
            return code
        first = self.first_failure()
        return code if first is None else first.code

    def first_failure(self) -> TaskEnd | None:
        """Return the task that failed first; None when none left word."""
        failed = [end for end in self._ends() if end.code]
        return min(failed) if failed else None

    def ask_to_stop(self) -> None:
        """Ask the tasks to save and stop; to be repeated, since who still starts does not hear it.

        By SIGUSR1, which srun hands on to them; at SIGTERM it kills them as well.
        """
        is_young = time.monotonic() - self._started < _YOUNG_S
        if self._process.poll() is None and not is_young:
            self._process.send_signal(signal.SIGUSR1)

    def kill(self) -> None:
        """End the tasks, as far as srun still can; Slurm ends what is left with the job."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(timeout=_KILL_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def failure(self) -> ProgramError:
        """Describe how it ended, with the last lines of the log of the task that failed first."""
        first = self.first_failure()
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
            f"{self.name} ended with exit code {first.code} (task {first.task}); the last lines of "
            f"{log}:\n{_tail(log)}",
        )

    def _suspicion(self) -> str:
        """Say what keeps a task from leaving its exit code."""
        if shutil.disk_usage(self._logs).free < _FULL_BYTES:
            return f"the disk of {self._logs} is full; free space there and submit again"
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
