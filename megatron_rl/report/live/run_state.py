"""State of a run, told by its folder alone: not started, at work, complete, stopped."""

import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from megatron_rl.registry import read_policy_state
from megatron_rl.report.progress import PHASES, TRAINING
from megatron_rl.report.summary import Record, values_of
from megatron_rl.run_dir import RunDir
from megatron_rl.stage_record import expected_steps

State = Literal["not started", "running", "complete", "stopped", "unknown"]

SILENT_S = 60.0
"""A Slurm job's launcher writes every few seconds; after this it is gone."""
_ENDED_JOBS = ("done", "failed", "time is up")
_LEAST_SLOW_S = 60.0
_SLOW_FACTOR = 3.0
_RECENT_STEPS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """State of a run at one moment."""

    state: State
    """``unknown``: its launcher is on another machine, which leaves no sign of life here."""
    phase: str
    """What it does, of ``PHASES`` or a Slurm job's own word; empty when it does nothing."""
    step: int
    num_steps: int | None
    """None before the run has started."""
    step_began: float | None
    """When the step that is being trained began, in seconds since the epoch; None outside of
    training."""
    usual_step_s: float | None
    """The longest of the latest steps; None before there are any."""

    def is_slow(self, now: float) -> bool:
        """Whether the step takes far longer than steps do in this run."""
        if self.state == "complete" or self.step_began is None or self.usual_step_s is None:
            return False
        return now - self.step_began > max(_LEAST_SLOW_S, _SLOW_FACTOR * self.usual_step_s)


def read_state(
    run_dir: RunDir, steps: Sequence[Record], job: Mapping[str, Any] | None, *, now: float
) -> RunState:
    """Look at the run.

    Args:
        steps: records of metrics.jsonl, by step.
        job: contents of job.json, None without one.
        now: seconds since the epoch.
    """
    config = read_json(run_dir.config)
    step = int(steps[-1]["step"]) if steps else 0
    if config is None:
        return RunState(
            state="not started", phase="", step=step, num_steps=None, step_began=None,
            usual_step_s=None,
        )  # fmt: skip
    num_steps = expected_steps(run_dir, config)
    is_complete = step >= num_steps and run_dir.report.exists() and run_dir.hf.exists()
    state: State = "complete" if is_complete else _liveness(run_dir, job, now)
    phase = _phase(run_dir, config, job, step) if state in ("running", "unknown") else ""
    recent = values_of(steps[-_RECENT_STEPS:], "time/step_s")
    return RunState(
        state=state,
        phase=phase,
        step=step,
        num_steps=num_steps,
        step_began=_step_began(run_dir, steps) if phase == TRAINING else None,
        usual_step_s=max(recent) if recent else None,
    )


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the contents of a file that is replaced whole, None while it is missing."""
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return None


def _liveness(run_dir: RunDir, job: Mapping[str, Any] | None, now: float) -> State:
    if job is not None:
        is_over = job["state"] in _ENDED_JOBS or now - job["updated"] > SILENT_S
        return "stopped" if is_over else "running"
    try:
        holder = re.search(r"process (\d+) on (\S+)", (run_dir.root / ".lock").read_text())
    except FileNotFoundError:
        return "unknown"
    if holder is None or holder[2] != socket.gethostname():
        return "unknown"
    return "running" if _is_launcher(int(holder[1])) else "stopped"


def _is_launcher(pid: int) -> bool:
    """Return whether this process runs us; its number may be another's by now."""
    try:
        return b"train" in Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")
    except OSError:
        return not Path("/proc/self").exists() and _exists(pid)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _phase(
    run_dir: RunDir, config: Mapping[str, Any], job: Mapping[str, Any] | None, step: int
) -> str:
    # A model that evaluation chooses is part of the cold start here.
    cold_start, _, starting, training, evaluation = PHASES
    is_trained = step >= expected_steps(run_dir, config)
    if job is not None:
        return evaluation if is_trained and job["state"] == training else str(job["state"])
    if config["sft"] is not None and not run_dir.is_cold_start_done:
        return cold_start
    if read_policy_state(run_dir) is None:
        return starting
    return evaluation if is_trained else training


def _step_began(run_dir: RunDir, steps: Sequence[Record]) -> float | None:
    """Return when the weights it starts from were published; a resumed run publishes anew."""
    try:
        published = run_dir.policy.stat().st_mtime
    except FileNotFoundError:
        return None
    return max(published, float(steps[-1]["time"])) if steps else published
