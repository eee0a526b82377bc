"""Progress of an ablation's runs, as their folders say it; any program may look at any time."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from megatron_rl.config import RunConfig
from megatron_rl.programs.ablation.plan import PlannedStart
from megatron_rl.programs.campaign.current_stage import final_stage
from megatron_rl.programs.processes.run_folder import is_complete
from megatron_rl.run_dir import RunDir, read_jsonl, write_json

Stage = Literal["done", "failed", "begun", "waiting"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far one run has come."""

    stage: Stage
    step: int
    num_steps: int
    message: str = ""
    """Why it failed."""

    def __str__(self) -> str:
        if self.stage == "begun":
            return f"at step {self.step} of {self.num_steps}"
        if self.stage == "failed":
            return f"failed at step {self.step} of {self.num_steps}: {self.message.splitlines()[0]}"
        return {"done": "done", "waiting": "not begun"}[self.stage]


def progress_of(config: RunConfig) -> Progress:
    """Return the progress of a run."""
    run_dir = RunDir(config.run_dir)
    step = max((int(record["step"]) for record in read_jsonl(run_dir.metrics)), default=0)
    stage: Stage = "begun" if run_dir.root.exists() else "waiting"
    message = ""
    if is_complete(final_stage(config)):
        stage = "done"
    elif (failure := _failure_in(run_dir)) is not None:
        stage, message = "failed", failure
    return Progress(stage=stage, step=step, num_steps=config.num_steps, message=message)


def progress_of_start(start: PlannedStart) -> str:
    """Return the progress of a cold start, for people."""
    run_dir = RunDir(start.config.run_dir)
    if start.is_done:
        return "done"
    failure = _failure_in(run_dir)
    if failure is not None:
        return f"failed: {failure.splitlines()[0]}"
    steps = [*read_jsonl(run_dir.sft / "metrics.jsonl")]
    if steps:
        return f"at step {int(steps[-1]['step'])} of {int(steps[-1]['num_steps'])}"
    return "begun" if run_dir.root.exists() else "not begun"


def note_failure(config: RunConfig, message: str) -> None:
    """Record that a run failed, in its folder."""
    write_json(_failure_file(config.run_dir), {"message": message})


def forget_failure(config: RunConfig) -> None:
    """Remove the record of an earlier failure: the run is tried again."""
    _failure_file(config.run_dir).unlink(missing_ok=True)


def _failure_in(run_dir: RunDir) -> str | None:
    path = _failure_file(run_dir.root)
    if path.exists():
        message: str = json.loads(path.read_text())["message"]
        return message
    if run_dir.job.exists():
        job: dict[str, Any] = json.loads(run_dir.job.read_text())
        if job["state"] == "failed":
            return job["message"] or f"its Slurm job {job['job']} failed"
    return None


def _failure_file(folder: Path) -> Path:
    return folder / "failure.json"
