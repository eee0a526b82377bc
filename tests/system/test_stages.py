"""A run of three stages from one file: other batches, another layout, other data, one rule."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from run_records import assert_no_group_is_trained_twice, wait_for_steps, weights_of
from tiny_run import SERVE_PYTHON, program, run, write_config, write_inputs

from megatron_rl.programs.processes.ports import rendezvous_port
from megatron_rl.programs.processes.ranks import rank_environment
from megatron_rl.run_dir import RunDir, read_jsonl
from megatron_rl.stage_record import read_stage_ends

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not SERVE_PYTHON.exists(), reason="no serving environment in .venv-serve"),
]

STAGES = """
[[stages]]
name = "short"
num_steps = 2
[stages.generators.sampling]
max_new_tokens = 24

[[stages]]
name = "half"
num_steps = 9
ends_when.reward_plateaus = {window = 1, min_gain = 100.0}
[stages.rollout]
n_batch = 8
n_async = 8
[stages.learner]
num_processes = 2

[[stages]]
name = "few"
num_steps = 2
[stages.data]
rows = ":4"
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "campaign"
    path = write_config(inputs, run_dir, sft=True)
    path.write_text(path.read_text().replace("num_steps = 4\n", "", 1) + STAGES)
    return path, RunDir(run_dir), run("train", str(path))


def test_every_stage_begins_where_the_one_before_it_ended(finished):
    _, run_dir, (code, output) = finished
    assert code == 0, output[-3000:]
    ends = read_stage_ends(run_dir)
    assert [(e.name, e.first_step, e.end) for e in ends] == [
        ("short", 0, 2),
        ("half", 2, 4),
        ("few", 4, 6),
    ]
    assert ends[0].reason == "num_steps (2)"
    assert "the reward went from" in ends[1].reason
    records = list(read_jsonl(run_dir.metrics))
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    sizes = [record["rollout/trained_completions"] for record in records]
    assert sizes[:4] == [16, 16, 8, 8]
    # A batch that waited when the rule ended its stage is trained on in the next.
    assert sizes[4:] in ([8, 16], [16, 16])
    assert all(record["rollout/length_max"] <= 24 for record in records[:2])


def test_the_run_is_evaluated_exported_and_reported_at_its_true_end(finished):
    _, run_dir, _ = finished
    evaluated = [(r["when"], r["version"]) for r in read_jsonl(run_dir.evaluations)]
    assert evaluated[0] == ("before", 0)
    assert evaluated[-1] == ("after", 6)
    assert all(when == "during" for when, _ in evaluated[1:-1])
    assert (run_dir.hf / "model.safetensors").exists()
    assert run_dir.report.exists()


def test_a_run_that_is_complete_starts_nothing(finished):
    path, _, _ = finished
    code, output = run("train", str(path))
    assert code == 0
    assert "is complete; nothing is left to do" in output


@pytest.mark.slow
def test_a_campaign_that_is_killed_again_and_again_is_the_one_that_was_not(inputs, tmp_path):
    """Killed at random moments; then its batches are replayed without a break, stage by stage."""
    run_dir = RunDir(tmp_path / "killed")
    path = write_config(inputs, run_dir.root, sft=True)
    path.write_text(path.read_text().replace("num_steps = 4\n", "", 1) + STAGES)
    draw = random.Random(7)
    for _ in range(6):
        with program("train", str(path)) as train:
            deadline = time.monotonic() + draw.uniform(5.0, 60.0)
            while time.monotonic() < deadline and train.process.poll() is None:
                time.sleep(0.1)
            os.kill(train.pid, signal.SIGKILL)
    code, output = run("train", str(path))
    assert code == 0, output[-3000:]
    ends = read_stage_ends(run_dir)
    assert [(e.name, e.first_step, e.end) for e in ends] == [
        ("short", 0, 2),
        ("half", 2, 4),
        ("few", 4, 6),
    ]
    assert_no_group_is_trained_twice(run_dir)

    again = RunDir(tmp_path / "replayed")
    shutil.copytree(run_dir.batches, again.batches)
    shutil.copytree(run_dir.sft / "hf", again.sft / "hf")
    for stage in sorted((run_dir.root / "stages").iterdir()):
        config = tmp_path / stage.name
        config.write_text(stage.read_text().replace(str(run_dir.root), str(again.root)))
        ranks = json.loads(config.read_text())["learner"]["num_processes"]
        replay(config, ranks=ranks)
    final, expected = weights_of(again.hf), weights_of(run_dir.hf)
    assert final.keys() == expected.keys()
    for name in final:
        assert torch.equal(final[name], expected[name]), name


def replay(config: Path, *, ranks: int) -> None:
    """Train on recorded batches, all ranks on this machine."""
    port = rendezvous_port()
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "megatron_rl", "learn", str(config), "--replay"],
            env=os.environ | rank_environment(rank, ranks, port),
        )
        for rank in range(ranks)
    ]
    assert [process.wait(600) for process in started] == [0] * ranks


@pytest.mark.slow
def test_a_rule_may_hold_when_a_stage_is_resumed_and_may_end_the_last_one(inputs, tmp_path):
    """The learner then ends the stage before any server is up; nobody waits for one."""
    run_dir = RunDir(tmp_path / "run")
    path = write_config(inputs, run_dir.root, sft=True)
    stages = "".join(f'[[stages]]\nname = "{name}"\nnum_steps = 20\n' for name in ("one", "two"))
    path.write_text(path.read_text().replace("num_steps = 4\n", "", 1) + stages)
    with program("train", str(path)) as train:
        wait_for_steps(run_dir, 3, train)
        os.kill(train.pid, signal.SIGTERM)
        train.finish(within_s=60)
    rule = "ends_when.reward_plateaus={window = 1, min_gain = 100.0}"
    rules = [f"--set=stages.{name}.{rule}" for name in ("one", "two")]
    code, output = run("train", str(path), *rules)
    assert code == 0, output[-3000:]
    first, second = read_stage_ends(run_dir)
    assert (first.first_step, first.planned_steps) == (0, 20)
    assert 3 <= first.end < 20 and "the reward went from" in first.reason
    assert (second.first_step, second.end) == (first.end, first.end + 2)
    *_, last = read_jsonl(run_dir.evaluations)
    assert (last["when"], last["version"]) == ("after", second.end)
    assert (run_dir.hf / "model.safetensors").exists()
    code, output = run("train", str(path), *rules)
    assert "is complete; nothing is left to do" in output
