"""Attempts of a Slurm job that train nothing are counted, from one to the next."""

from pathlib import Path

import pytest

from megatron_rl.programs.job_progress import JobProgress
from megatron_rl.run_dir import RunDir, append_jsonl, write_json
from megatron_rl.slurm.allocation import Job


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def attempt(run_dir: RunDir, restarts: int, *, job: str = "7", steps: tuple[int, ...] = ()) -> int:
    """Return the idle attempts after one that trains these steps and writes down the count."""
    progress = JobProgress(run_dir, Job(id=job, restarts=restarts, nodes=()))
    for step in steps:
        append_jsonl(run_dir.metrics, {"step": step})
    count = progress.idle_attempts()
    write_json(run_dir.job, {"job": job, "idle_attempts": count})
    return count


def test_idle_attempts_in_a_row_are_counted(run_dir):
    run_dir.root.mkdir()
    assert [attempt(run_dir, restarts) for restarts in range(3)] == [1, 2, 3]


def test_a_step_starts_the_count_anew(run_dir):
    run_dir.root.mkdir()
    assert attempt(run_dir, 0) == 1
    assert attempt(run_dir, 1, steps=(1, 2)) == 0
    assert attempt(run_dir, 2) == 1


def test_another_job_in_the_folder_starts_the_count_anew(run_dir):
    run_dir.root.mkdir()
    assert attempt(run_dir, 0) == 1
    assert attempt(run_dir, 0, job="8") == 1
    assert attempt(run_dir, 1, job="9") == 1


def test_a_finished_cold_start_is_progress(run_dir):
    progress = JobProgress(run_dir, Job(id="7", restarts=0, nodes=()))
    (run_dir.sft / "hf").mkdir(parents=True)
    assert progress.idle_attempts() == 0


def test_a_checkpoint_of_the_cold_start_is_progress(run_dir):
    progress = JobProgress(run_dir, Job(id="7", restarts=0, nodes=()))
    (run_dir.sft / "checkpoints").mkdir(parents=True)
    folder = run_dir.sft / "checkpoints" / "step_000003"
    folder.mkdir()
    write_json(run_dir.sft / "checkpoints" / "latest.json", {"step": 3})
    assert progress.idle_attempts() == 0
