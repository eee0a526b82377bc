"""Runs of an ablation on this machine, one after the other, each a ``train`` of its own."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from megatron_rl.config import RunConfig
from megatron_rl.errors import Interrupted
from megatron_rl.programs.ablation.plan import PlannedRun, PlannedStart
from megatron_rl.programs.ablation.progress import (
    Progress,
    forget_failure,
    note_failure,
    progress_of,
)
from megatron_rl.programs.ablation.settings_files import settings_file
from megatron_rl.programs.processes.children import Supervisor
from megatron_rl.report.cards import format_duration
from megatron_rl.slurm.step import EXIT_RESUME

_GRACE_S = 20.0
"""A run that is stopped takes up to 10 s to save and to end its own programs."""
_POLL_S = 0.2
_ERROR = "megatron-rl: error:"


class LocalRuns:
    """The runs of one ablation; a run that fails does not stop the others."""

    def __init__(
        self, logs: Path, *, say: Callable[[str], None], note_end: Callable[[], None]
    ) -> None:
        """Prepare to run.

        Args:
            logs: folder of what the runs print.
            say: tells a line to people.
            note_end: called whenever a run has ended.
        """
        self._logs, self._say, self._note_end = logs, say, note_end
        self._supervisor = Supervisor(grace_s=_GRACE_S)
        self._failed: list[str] = []

    def run(self, runs: Sequence[PlannedRun]) -> list[str]:
        """Run all that are not complete, with the starts they need; return the names of the failed.

        Raises:
            Interrupted: a run was stopped from outside.
        """
        with self._supervisor:
            for number, run in enumerate(runs, start=1):
                head = f"[{number}/{len(runs)}] {run.name}"
                if progress_of(run.config).stage == "done":
                    self._say(f"{head}: done already")
                elif run.start is None or self._has_start(run.start):
                    self._run_one(run, head)
                else:
                    self._fail(run.name, run.config, f"its start, {run.start.name}, failed")
        return self._failed

    def _has_start(self, start: PlannedStart) -> bool:
        """Train a start unless that is done, or has just been tried; return whether it is there."""
        if not start.is_done and start.name not in self._failed:
            self._execute(start.name, start.config, ["--only", "sft"])
        return start.is_done

    def _run_one(self, run: PlannedRun, head: str) -> None:
        self._say(f"{head}: {_beginning(progress_of(run.config))}; log {self._log(run.name)}")
        started = time.monotonic()
        self._execute(run.name, run.config, [])
        taken = format_duration(time.monotonic() - started)
        self._say(f"{head}: {progress_of(run.config)} after {taken}")
        self._note_end()

    def _execute(self, name: str, config: RunConfig, options: list[str]) -> None:
        if options:
            self._say(f"{name}: training the start; log {self._log(name)}")
        forget_failure(config)
        log = self._log(name)
        printed_before = log.stat().st_size if log.exists() else 0
        words = ["train", str(settings_file(config)), *options]
        child = self._supervisor.start("train", name, words, log=log, environment={})
        while child.poll() is None:
            time.sleep(_POLL_S)
        code = child.poll()
        self._supervisor.stop([child])
        if code == EXIT_RESUME:
            raise Interrupted(f"{name} was stopped; run the same command again to resume")
        if code:
            printed = log.read_bytes()[printed_before:].decode(errors="replace")
            self._fail(name, config, _last_words(code, printed))

    def _fail(self, name: str, config: RunConfig, message: str) -> None:
        note_failure(config, message)
        self._failed.append(name)
        self._say(f"{name}: {message}")

    def _log(self, name: str) -> Path:
        return self._logs / f"{name.replace('/', '-')}.log"


def _beginning(progress: Progress) -> str:
    return f"resumed at step {progress.step}" if progress.step else "begun"


def _last_words(code: int, printed: str) -> str:
    """Return what a run said was wrong: its own error, and that of the program that failed."""
    lines = printed.splitlines()
    errors = [line.removeprefix(_ERROR).strip(": ") for line in lines if line.startswith(_ERROR)]
    # Without one it is a bug, and the last line of its traceback.
    said = list(dict.fromkeys(errors)) or lines[-1:]
    return f"exit code {code}: " + ": ".join(said)
