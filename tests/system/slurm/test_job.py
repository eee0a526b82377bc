"""Whole runs as jobs of a real Slurm: placement, het jobs, time limits, shared nodes, status."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cluster import placement_in
from conftest import Submitted
from safetensors.torch import load_file
from tiny_run import REPOSITORY, run, wait_for, write_config

from megatron_rl.programs.loops.selection import scores_of
from megatron_rl.run_dir import RunDir, read_jsonl
from megatron_rl.stage_record import read_stage_ends
from megatron_rl.transfers import read_transfers

pytestmark = pytest.mark.system


def steps_of(run_dir: Path) -> list[int]:
    return [record["step"] for record in read_jsonl(RunDir(run_dir).metrics)]


def logs_of(run_dir: Path, job: str, attempt: int) -> set[str]:
    return {path.name for path in RunDir(run_dir).attempt_logs(job, attempt).glob("*.log")}


def learner_log(submitted: Submitted, attempt: int) -> str:
    folder = RunDir(submitted.run_dir).attempt_logs(submitted.job, attempt)
    return (folder / "learn_0.log").read_text()


def test_a_run_on_three_nodes_has_its_learner_on_two_and_a_server_on_each_of_two(submit, slurm):
    submitted = submit(
        *("learner.num_processes=2", "launch.placement.learner_nodes=2"),
        *("generators.num_servers=2", "launch.placement.generator_nodes=2"),
        nodes=3,
        sft=True,
    )
    assert submitted.end() == ("COMPLETED", 0), submitted.output
    assert steps_of(submitted.run_dir) == [1, 2, 3, 4]
    placed = [row[:2] for row in placement_in(submitted.output)[:4]]
    assert placed == [["learn", "n1,n2"], ["serve_0", "n2"], ["serve_1", "n3"], ["rollout", "n3"]]
    assert "3 nodes are well" in submitted.output
    assert "all-reduce over the learner's 2 nodes" in submitted.output
    run_dir = RunDir(submitted.run_dir)
    assert run_dir.report.exists()
    assert any(run_dir.hf.glob("*.safetensors"))
    logs = logs_of(submitted.run_dir, submitted.job, 0)
    assert {"learn_0.log", "learn_1.log", "serve_0.log", "serve_1.log", "rollout.log"} <= logs
    code, status = run("status", str(submitted.run_dir), within_s=60)
    assert code == 0
    assert f"job {submitted.job}, attempt 0: done" in status
    assert "step 4 of 4" in status
    assert submitted.survivors() == []


@pytest.mark.slow
def test_a_server_spans_two_nodes_and_is_given_every_version(submit, slurm):
    """Both nodes' SGLang start at once, which takes twice as long on the cores of one machine."""
    submitted = submit(
        *("num_steps=2", "generators.tp=2", "generators.nodes_per_server=2"), nodes=3
    )
    assert submitted.end() == ("COMPLETED", 0), submitted.output
    placed = [row[:3] for row in placement_in(submitted.output)[:3]]
    assert placed == [["learn", "n1", "1"], ["serve_0", "n2,n3", "2"], ["rollout", "n3", "1"]]
    assert steps_of(submitted.run_dir) == [1, 2]
    logs = logs_of(submitted.run_dir, submitted.job, 0)
    assert {"serve_0_0.log", "serve_0_1.log"} <= logs
    # The learner's rank and both of the server's are of one group, which weights are sent through.
    servers = [RunDir(submitted.run_dir).logs / f"server_0{end}.log" for end in ("", "_1")]
    for rank, log in enumerate(servers, 1):
        assert f"rank_offset=1, rank={rank}, world_size=3" in log.read_text()
    metrics = list(read_jsonl(RunDir(submitted.run_dir).metrics))
    published = [record["publish/servers"] for record in metrics]
    assert published == [1, 1]
    # What admitted it was whole tensors; since then each rank has had its own shard, whatever node.
    transfer = read_transfers(RunDir(submitted.run_dir))["server_0"]
    assert (transfer.transport, transfer.reason) == ("shards", "")
    # The server starts from arbitrary weights: had a node kept its own, nothing would be alike.
    assert metrics[0]["policy/logprob_difference"] < 1e-4
    assert submitted.survivors() == []


@pytest.mark.slow
def test_a_job_whose_time_is_up_goes_on_where_it_was_and_ends_bit_for_bit_the_same(
    submit, slurm, tmp_path
):
    submitted = submit("num_steps=5", "launch.preflight=false")
    wait_for(lambda: submitted.is_over or len(steps_of(submitted.run_dir)) >= 2)
    assert not submitted.is_over, submitted.output
    slurm.run("scancel", "--batch", "--signal=USR1", submitted.job)
    assert submitted.end() == ("COMPLETED", 0), submitted.output
    assert "it queues itself again" in submitted.output
    assert steps_of(submitted.run_dir) == [1, 2, 3, 4, 5]
    # Metrics are cut back on resuming: only the logs tell whether a step was trained twice.
    stopped, started = (
        re.search(pattern, learner_log(submitted, attempt))
        for attempt, pattern in enumerate([r"stopped at version (\d+)", r"starts at version (\d+)"])
    )
    assert stopped is not None and started is not None
    assert stopped[1] == started[1] in {"2", "3", "4"}
    assert submitted.survivors() == []

    replay = RunDir(tmp_path / "replay")
    replay.root.mkdir()
    replay.batches.symlink_to(RunDir(submitted.run_dir).batches)
    config = str(RunDir(submitted.run_dir).config)
    overrides = ("--set", f"run_dir={replay.root}")
    code, output = run("learn", config, *overrides, "--replay")
    assert code == 0, output
    for path in replay.hf.glob("*.safetensors"):
        expected = load_file(RunDir(submitted.run_dir).hf / path.name)
        for name, tensor in load_file(path).items():
            assert torch.equal(tensor, expected[name]), name


@pytest.mark.slow
def test_two_jobs_share_a_node_and_one_sees_its_limit_coming(submit, slurm):
    """Slurm counts in minutes: the limit is two from the start. No signal tells the learner."""
    share = ("--oversubscribe", "--exclusive=user", "--nodelist=n1")
    share += ("--cpus-per-task=4", "--ntasks-per-node=1")
    quick = ("launch.preflight=false", "evaluation.every=0")
    endless = submit(
        *quick,
        *("num_steps=100000", "launch.when_time_is_up='exit'", "checkpoint.every=50"),
        name="endless",
        options=(*share, "--time=2", "--signal=B:CONT@1"),
    )
    short = submit("num_steps=2", *quick, name="short", options=share)
    assert short.end() == ("COMPLETED", 0), short.output
    assert steps_of(short.run_dir) == [1, 2]
    assert endless.end() == ("FAILED", 75), endless.output
    last = steps_of(endless.run_dir)[-1]
    latest = (RunDir(endless.run_dir).checkpoints / "latest.json").read_text()
    assert f'"step": {last}' in latest
    log = (RunDir(endless.run_dir).attempt_logs(endless.job, 0) / "learn_0.log").read_text()
    assert "time is nearly up" in log
    assert endless.survivors() == []


@pytest.mark.slow
def test_submit_py_runs_a_heterogeneous_job(slurm, inputs, tmp_path):
    run_dir = tmp_path / "het"
    config = write_config(inputs, run_dir, sft=False)
    arguments = [
        *("--set", "launch.gpus_per_node=0", "--set", "num_steps=2"),
        *("--set", "launch.placement.heterogeneous=true"),
        *("--set", "launch.cpus_per_node=4", "--set", f"launch.python={sys.executable}"),
        *("--nodes", "2", "--time", "20"),
    ]
    done = subprocess.run(
        [sys.executable, REPOSITORY / "launchers/slurm/submit.py", config, *arguments],
        env=slurm.environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    job = re.search(r"^job (\d+):", done.stdout, re.MULTILINE)[1]
    end = slurm.wait_for_end(job)
    log = (run_dir / f"logs/slurm-{job}.log").read_text()
    assert end == ("COMPLETED", 0), log
    placed = [row[:2] for row in placement_in(log)[:3]]
    assert placed == [["learn", "n1"], ["serve_0", "n2"], ["rollout", "n3"]]
    assert steps_of(run_dir) == [1, 2]
    status = subprocess.run(
        [sys.executable, "-m", "megatron_rl", "status", job],
        env=slurm.environment,
        capture_output=True,
        text=True,
    )
    assert "step 2 of 2" in status.stdout, status.stderr


@pytest.mark.slow
def test_a_job_chooses_its_start_and_goes_through_the_stages_of_a_run(submit, slurm):
    stages = (
        '[{name = "one", num_steps = 2}, '
        '{name = "two", num_steps = 2, rollout = {n_batch = 8}, learner = {num_processes = 2}}]'
    )
    submitted = submit(
        *("num_steps=null", f"stages={stages}", "sft.select=evaluation", "sft.candidates=2"),
        nodes=2,
        sft=True,
    )
    assert submitted.end() == ("COMPLETED", 0), submitted.output
    run_dir = RunDir(submitted.run_dir)
    assert [(e.name, e.first_step, e.end) for e in read_stage_ends(run_dir)] == [
        ("one", 0, 2),
        ("two", 2, 4),
    ]
    assert 'stage "one" ended at step 2: num_steps (2)' in submitted.output
    sizes = [record["rollout/trained_completions"] for record in read_jsonl(run_dir.metrics)]
    assert sizes == [16, 16, 8, 8]
    assert run_dir.report.exists()
    assert any(run_dir.hf.glob("*.safetensors"))
    # Both are of one life of the job; the learner has a second rank in the second stage alone.
    logs = logs_of(submitted.run_dir, submitted.job, 0)
    assert {"learn_0.log", "learn_1.log", "serve_0.log", "rollout.log"} <= logs
    assert {"sft_0.log", "select.log"} <= logs
    assert len(scores_of(run_dir)) == 2
    code, status = run("status", str(submitted.run_dir), within_s=60)
    assert code == 0
    assert 'stage "one": steps 0 to 2; ended since num_steps (2)' in status
    assert "which RL starts from" in status
    assert submitted.survivors() == []
