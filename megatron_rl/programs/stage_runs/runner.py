"""Runner of stages: one after the other, whatever becomes of those before."""

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from megatron_rl.placement.gpu_environment import LEARNER_DEFAULTS
from megatron_rl.programs.processes.children import Child, Supervisor
from megatron_rl.programs.stage_runs.process import (
    SINGLE_RANK,
    arguments_of,
    hidden_gpus,
    outcome_in,
)
from megatron_rl.programs.stage_runs.result import BAD, Outcome, StageResult, Status
from megatron_rl.programs.stage_runs.servers import ServerFailedError, StageServers
from megatron_rl.programs.stage_runs.stage import Place, Stage, write_place

_GRACE_S = 5.0
"""For a stack to be written to the log of a stage whose time is up."""
_POLL_S = 0.05
_TAIL_LINES = 25


class StageRunner:
    """Runs stages below one folder; leaving the context ends what still runs."""

    def __init__(
        self, root: Path, place: Place, *, keep: str, limit_s: float | None = None
    ) -> None:
        """Prepare.

        Args:
            root: folder of the results.
            place: of all stages; each gets a folder of its own.
            keep: see StageServers.
            limit_s: of every stage, instead of its own.
        """
        self._root = root
        self._place = place
        self._limit_s = limit_s
        self._servers = StageServers(place, keep=keep)

    def __enter__(self) -> "StageRunner":
        return self

    def __exit__(self, *_: object) -> None:
        self._servers.close()

    def run(self, stage: Stage) -> StageResult:
        """Run one stage to its end, or until its time is up."""
        started = time.monotonic()
        limit_s = stage.limit_s if self._limit_s is None else self._limit_s
        missing = self._missing(stage)
        if missing:
            return _result(stage, "skipped", 0.0, limit_s, reason=missing)
        log = self._root / "logs" / f"{stage.name}.log"
        deadline = started + limit_s
        try:
            place = self._place_of(stage, deadline=deadline)
        except ServerFailedError as error:
            return _result(
                *(stage, "failed", time.monotonic() - started, limit_s),
                reason=str(error),
                logs=[self._below_root(error.log)],
                tail=_tail(error.log),
            )
        write_place(place)
        code = self._wait_for(stage, place, log, deadline)
        result = _judged(stage, code, outcome_in(place.folder), time.monotonic() - started, limit_s)
        logs = [log, *self._servers.logs(place)]
        is_bad = result.status in BAD
        if is_bad and place.server is not None:
            # A stage that broke off may have left its server paused, or in a broken group.
            self._servers.close()
        return replace(
            result,
            logs=[self._below_root(path) for path in logs],
            tail=_tail(log) if is_bad else "",
        )

    def _missing(self, stage: Stage) -> str:
        have = len(self._place.gpus)
        if self._place.is_rehearsal or have >= stage.num_gpus:
            return ""
        return f"it needs {stage.num_gpus} GPUs, and {have} can be seen"

    def _place_of(self, stage: Stage, *, deadline: float) -> Place:
        """Return the stage's place, with the server that it asks for up; end another one."""
        folder = self._root / "stages" / stage.name
        folder.mkdir(parents=True)
        place = replace(self._place, folder=folder)
        if stage.server is None:
            self._servers.close()
            return place
        server = "shared" if place.is_rehearsal else stage.server
        return replace(
            place, server=server, server_dir=self._servers.ensure(server, deadline=deadline)
        )

    def _wait_for(self, stage: Stage, place: Place, log: Path, deadline: float) -> int | None:
        """Return the exit code of the stage's process, None when its time is up."""
        with Supervisor(grace_s=_GRACE_S) as supervisor:
            child = supervisor.start(
                "gpu-check",
                stage.name,
                arguments_of(stage.work, place.folder),
                log=log,
                environment=_learner_defaults() | SINGLE_RANK | hidden_gpus(place),
            )
            return _code_by(child, deadline)

    def _below_root(self, path: Path) -> str:
        return str(path.relative_to(self._root))


def _learner_defaults() -> dict[str, str]:
    """Return the variables with which CUDA and NCCL must start, but for those the user has set."""
    return {name: value for name, value in LEARNER_DEFAULTS.items() if name not in os.environ}


def _code_by(child: Child, deadline: float) -> int | None:
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return child.poll()


def _judged(
    stage: Stage, code: int | None, outcome: Outcome | None, seconds: float, limit_s: float
) -> StageResult:
    if code is None:
        reason = f"its time was up: {limit_s:g} s"
        return _result(stage, "timed out", seconds, limit_s, reason=reason)
    if code != 0 or outcome is None:
        return _result(stage, "failed", seconds, limit_s, reason=_ended(code))
    if outcome.skipped:
        return _result(stage, "skipped", seconds, limit_s, reason=outcome.skipped)
    beyond = [figure for figure in outcome.figures if not figure.holds]
    result = _result(
        *(stage, "failed" if beyond else "passed", seconds, limit_s),
        reason="; ".join(f"{figure}, but must be {figure.limit}" for figure in beyond),
    )
    return replace(result, figures=outcome.figures, notes=outcome.notes)


def _ended(code: int) -> str:
    if code >= 0:
        return f"it ended with exit code {code} and left no figures"
    try:
        name = signal.Signals(-code).name
    except ValueError:  # a real-time signal has no name
        name = f"signal {-code}"
    return f"{name} killed it"


def _result(
    stage: Stage, status: Status, seconds: float, limit_s: float, **fields: object
) -> StageResult:
    known: Mapping[str, object] = {"name": stage.name, "shows": stage.shows, **fields}
    return StageResult(status=status, seconds=seconds, limit_s=limit_s, **known)  # type: ignore[arg-type]


def _tail(log: Path) -> str:
    if not log.exists():
        return ""
    return "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
