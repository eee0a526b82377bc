"""Attempts of a Slurm job that train nothing are counted, from one to the next."""

from pathlib import Path

import pytest

from megatron_rl.config import RunConfig, resolve
from megatron_rl.errors import ConfigError
from megatron_rl.programs.processes.run_folder import is_complete
from megatron_rl.programs.slurm_job.progress import JobProgress
from megatron_rl.programs.slurm_job.record import refuse_other_job
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


def complete_run(run_dir: RunDir, *, trained: int = 3, evaluated: int = 3) -> RunConfig:
    """Leave what a run of 3 steps leaves, and return its configuration."""
    for step in range(1, trained + 1):
        append_jsonl(run_dir.metrics, {"step": step})
    append_jsonl(run_dir.evaluations, {"when": "after", "version": evaluated})
    write_json(run_dir.hf / "config.json", {})
    run_dir.report.write_text("")
    return resolve(
        {
            "run_dir": str(run_dir.root),
            "num_steps": 3,
            "model": {"path": "model"},
            "data": {"train": "train.jsonl", "evaluation": "evaluation.jsonl"},
        }
    )


def test_a_run_is_complete_once_its_last_step_evaluation_and_export_are_there(run_dir):
    assert is_complete(complete_run(run_dir))


@pytest.mark.parametrize("missing", ["hf/config.json", "report.html"])
def test_a_run_without_its_model_or_report_is_not_complete(run_dir, missing):
    config = complete_run(run_dir)
    (run_dir.root / missing).unlink()
    assert not is_complete(config)


@pytest.mark.parametrize("done", [{"trained": 2}, {"evaluated": 2}])
def test_a_run_without_its_last_step_or_evaluation_is_not_complete(run_dir, done):
    assert not is_complete(complete_run(run_dir, **done))


def test_a_run_that_was_given_more_steps_is_not_complete(run_dir):
    assert not is_complete(complete_run(run_dir).model_copy(update={"num_steps": 4}))


@pytest.mark.parametrize(
    ("other", "age_s", "is_refused"),
    [
        ({"job": "8", "state": "training"}, 5.0, True),
        ({"job": "7", "state": "training"}, 5.0, False),  # an earlier life of this one
        ({"job": "8", "state": "training"}, 90.0, False),  # it is gone without a word
        ({"job": "8", "state": "time is up"}, 5.0, False),
        ({"job": "8", "state": "failed"}, 5.0, False),
    ],
)
def test_a_folder_that_another_job_is_at_work_in_is_refused(run_dir, other, age_s, is_refused):
    write_json(run_dir.job, other | {"updated": 1000.0 - age_s})
    job = Job(id="7", restarts=1, nodes=())
    if is_refused:
        with pytest.raises(ConfigError, match=r"in use by job 8, which is training; .*scancel 8"):
            refuse_other_job(run_dir, job, now=1000.0)
    else:
        refuse_other_job(run_dir, job, now=1000.0)


def test_a_folder_in_which_no_job_was_is_free(run_dir):
    refuse_other_job(run_dir, Job(id="7", restarts=0, nodes=()), now=0.0)
