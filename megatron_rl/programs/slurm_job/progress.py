"""Progress of a run over attempts of its job: complete, further, or idle."""

import json

from megatron_rl.learner.checkpoint.steps import latest_step
from megatron_rl.run_dir import RunDir, read_jsonl
from megatron_rl.slurm.allocation import Job


class JobProgress:
    """Counts attempts in a row, this one included, that trained nothing."""

    def __init__(self, run_dir: RunDir, job: Job) -> None:
        """Look at the run folder as the attempt begins."""
        self._run_dir = run_dir
        self._before = _how_far(run_dir)
        self._idle_before = _idle_attempts_in(run_dir, job)

    def idle_attempts(self) -> int:
        """Return how many attempts came no further, the newest one being this one; 0 if it did."""
        return 0 if _how_far(self._run_dir) != self._before else self._idle_before + 1


def _how_far(run_dir: RunDir) -> tuple[bool, int | None, int]:
    trained = [record["step"] for record in read_jsonl(run_dir.metrics)]
    return (
        run_dir.is_cold_start_done,
        latest_step(run_dir.sft / "checkpoints"),
        trained[-1] if trained else 0,
    )


def _idle_attempts_in(run_dir: RunDir, job: Job) -> int:
    """Return what the attempt before left in job.json; 0 when that was another job."""
    if job.restarts == 0 or not run_dir.job.exists():
        return 0
    record = json.loads(run_dir.job.read_text())
    return int(record.get("idle_attempts", 0)) if record["job"] == job.id else 0
