"""What kills a job, and what does not: its own exit code, the right message, nothing left over."""

import json
import os
import signal
import time

import pytest
from tiny_run import wait_for

from megatron_rl.registry import registered_servers
from megatron_rl.run_dir import RunDir, read_jsonl

TEARDOWN_S = 30.0
QUICK = ("launch.preflight=false", "evaluation.every=0")

pytestmark = pytest.mark.system


def wait_while_it_runs(submitted, holds):
    wait_for(lambda: submitted.is_over or holds())
    assert not submitted.is_over, submitted.output


def wait_for_program(submitted, *words):
    """Return the pid of one of the run's programs once it runs Python code of ours."""
    wait_while_it_runs(submitted, lambda: submitted.processes("megatron_rl", *words))
    time.sleep(1.0)  # it imports
    return min(submitted.processes("megatron_rl", *words))


def assert_torn_down(submitted, *, code):
    started = time.monotonic()
    assert submitted.end(within_s=TEARDOWN_S) == ("FAILED", code), submitted.output
    assert time.monotonic() - started < TEARDOWN_S
    wait_for(lambda: not submitted.survivors(), within_s=5)


def test_a_killed_learner_rank_ends_the_job_with_its_own_code_and_last_lines(submit):
    submitted = submit(
        *QUICK, "learner.num_processes=2", "launch.placement.learner_nodes=2", nodes=2
    )
    wait_for_program(submitted, "learn ")
    victim = max(submitted.processes("megatron_rl", "learn "))
    os.kill(victim, signal.SIGKILL)
    assert_torn_down(submitted, code=12)  # of learn
    assert "learn ended with exit code 137" in submitted.output  # 128 + SIGKILL
    assert "143" not in submitted.output
    job = json.loads(RunDir(submitted.run_dir).job.read_text())
    assert job["state"] == "failed"
    assert "learn ended with exit code 137" in job["message"]


def test_a_killed_rollout_program_ends_the_job(submit):
    submitted = submit(*QUICK)
    os.kill(wait_for_program(submitted, "rollout "), signal.SIGKILL)
    assert_torn_down(submitted, code=11)  # of rollout
    assert "rollout ended with exit code 137" in submitted.output


def test_scancel_leaves_nothing_running(submit, slurm):
    submitted = submit(*QUICK, nodes=2, options=())
    wait_for_program(submitted, "serve ")
    wait_for_program(submitted, "learn ")
    slurm.run("scancel", submitted.job)
    assert submitted.end(within_s=TEARDOWN_S)[0] == "CANCELLED"
    wait_for(lambda: not submitted.survivors(), within_s=10)
    assert "cancelled by SIGTERM" in submitted.output


@pytest.mark.slow
def test_a_killed_server_is_started_again_and_the_run_ends_well(submit):
    submitted = submit(*QUICK, "num_steps=30", "generators.num_servers=2", nodes=2)
    run_dir = RunDir(submitted.run_dir)
    wait_while_it_runs(submitted, lambda: any(read_jsonl(run_dir.metrics)))
    wait_while_it_runs(submitted, lambda: "server_1" in registered_servers(run_dir))
    os.kill(min(submitted.processes("serve ", "--index 1")), signal.SIGKILL)
    assert submitted.end() == ("COMPLETED", 0), submitted.output
    assert [record["step"] for record in read_jsonl(run_dir.metrics)] == list(range(1, 31))
    roles = {role["name"]: role for role in json.loads(run_dir.job.read_text())["roles"]}
    assert roles["serve_1"]["restarts"] == 1
    assert roles["serve_0"]["restarts"] == 0


@pytest.mark.slow
def test_a_server_that_loses_one_of_its_nodes_is_started_again_on_all(submit):
    submitted = submit(
        *(*QUICK, "num_steps=8", "generators.tp=2", "generators.nodes_per_server=2"), nodes=3
    )
    run_dir = RunDir(submitted.run_dir)
    # Both nodes' SGLang start at once, which takes twice as long on the cores of one machine.
    wait_while_it_runs(submitted, lambda: any(read_jsonl(run_dir.metrics)))
    os.kill(min(submitted.processes("sglang", "--node-rank 1")), signal.SIGKILL)
    assert submitted.end() == ("COMPLETED", 0), submitted.output
    assert [record["step"] for record in read_jsonl(run_dir.metrics)] == list(range(1, 9))
    roles = {role["name"]: role for role in json.loads(run_dir.job.read_text())["roles"]}
    assert roles["serve_0"]["restarts"] == 1
    assert submitted.survivors() == []


@pytest.mark.slow
def test_a_job_whose_time_is_always_up_too_early_does_not_queue_itself_for_ever(submit, slurm):
    submitted = submit(*QUICK)
    record = RunDir(submitted.run_dir).job

    def is_starting(attempt: int) -> bool:
        job = json.loads(record.read_text()) if record.exists() else {}
        return job.get("attempt") == attempt and job["state"] == "starting servers"

    for attempt in range(2):
        wait_while_it_runs(submitted, lambda attempt=attempt: is_starting(attempt))
        slurm.run("scancel", "--batch", "--signal=USR1", submitted.job)
    assert submitted.end() == ("FAILED", 2), submitted.output
    assert "time was up 2 times in a row before a single step was trained" in submitted.output
    assert submitted.survivors() == []


def test_a_full_disk_ends_the_job_naming_the_folder(submit, small_disk):
    if small_disk is None:
        pytest.skip("this machine does not let us mount a small disk")
    submitted = submit(*QUICK, sft=True, run_dir=small_disk / "run")
    # It fills up once the programs have started, which is not part of the end.
    assert submitted.end() == ("FAILED", 13), submitted.output  # of sft
    wait_for(lambda: not submitted.survivors(), within_s=10)
    assert "is full" in submitted.output or "No space left on device" in submitted.output
    assert str(submitted.run_dir) in submitted.output


@pytest.mark.slow
def test_a_node_that_cannot_be_reached_is_named_before_a_model_is_loaded(submit, slurm, tmp_path):
    if not slurm.has_networks:
        pytest.skip("nodes without networks of their own cannot be cut off")
    slurm.cut_off("n2")
    try:
        submitted = submit(
            *("evaluation.every=0", "launch.preflight_timeout_s=45.0"),
            nodes=3,
            options=("--no-requeue",),
        )
        state, code = submitted.end()
        assert (state, code) == ("FAILED", 14), submitted.output  # of the preflight
        assert "n2: no answer" in submitted.output
        assert "sbatch --exclude=n2" in submitted.output
        logs = RunDir(submitted.run_dir).attempt_logs(submitted.job, 0)
        assert not (logs / "learn_0.log").exists()
    finally:
        slurm.reconnect("n2")
