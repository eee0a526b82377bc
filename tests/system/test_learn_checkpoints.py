"""Checkpoints of the learner program: what it refuses, and a disk that fails in the background."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_model import VOCAB_SIZE
from tiny_run import HANGS_AFTER_S, REPOSITORY, run, write_config, write_inputs

from megatron_rl.batch import Batch, save_batch
from megatron_rl.run_dir import RunDir
from megatron_rl.sequences import Sequences
from megatron_rl.types import Cursor

pytestmark = [pytest.mark.system]
NUM_STEPS = 4


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The configuration of a run whose batches are recorded, and whose first replay is done."""
    folder = tmp_path_factory.mktemp("replay")
    config = write_config(write_inputs(folder), folder / "run", sft=False)
    for step in range(NUM_STEPS):
        save_batch(RunDir(folder / "run").batch(step), make_batch(step))
    exit_code, output = run("learn", str(config), "--replay")
    assert exit_code == 0, output
    return config


def make_batch(seed: int) -> Batch:
    """Return two groups of two completions of 6 tokens after prompts of 4."""
    rng = np.random.default_rng(seed)
    mask_T = np.array(([False] * 4 + [True] * 6) * 4)
    return Batch(
        sequences=Sequences(
            token_ids_T=rng.integers(2, VOCAB_SIZE, 40),
            offsets=np.arange(0, 41, 10),
            loss_mask_T=mask_T,
            behavior_logprobs_T=np.where(mask_T, -6.0, 0.0).astype(np.float32),
            advantages_N=np.array([1, -1, 1, -1], np.float32),
            weights_N=np.full(4, 1 / 24, np.float32),
        ),
        policy_versions_T=np.where(mask_T, 0, -1).astype(np.int32),
        groups_N=np.array([0, 0, 1, 1]),
        minibatches_N=np.zeros(4, np.int64),
        cursor=Cursor(next_index=2, outstanding=()),
        metrics={},
        samples=[],
    )


def test_checkpoints_made_in_the_background_are_complete_when_the_program_ends(recorded):
    root = RunDir(recorded.with_suffix("")).checkpoints
    assert sorted(path.name for path in root.iterdir()) == [  # every 2 steps
        "latest.json",
        "step_000002",
        "step_000004",
    ]
    lines = RunDir(recorded.with_suffix("")).metrics.read_text().splitlines()
    assert [json.loads(line)["time/checkpoint_s"] > 0 for line in lines][1::2] == [True, True]
    completed = [line for line in lines if "time/checkpoint_total_s" in line]
    assert len(completed) == 1  # that of step 2; the last one ends after the last record


def test_resuming_with_another_model_is_refused_before_anything_starts(recorded, tmp_path):
    inputs = write_inputs(tmp_path)
    model = inputs / "model" / "config.json"
    model.write_text(json.dumps(json.loads(model.read_text()) | {"hidden_size": 64}))
    override = ("--set", f'model.path="{model.parent}"')
    sentence = "hidden_size is 128 in the checkpoint and 64 in model.path"
    for command in (("learn", str(recorded), "--replay"), ("train", str(recorded))):
        exit_code, output = run(*command, *override, "--set", 'model.init="random"')
        assert exit_code == 1
        assert "step_000004 is of another model: " in output and sentence in output
        assert "Traceback" not in output


def test_resuming_with_another_rope_scaling_is_refused_by_its_key(recorded):
    override = ("--set", 'model.rope_scaling={type = "yarn", factor = 2.0}')
    exit_code, output = run("train", str(recorded), *override)
    assert exit_code == 1
    assert "step_000004 is of another model: rope_scaling is None in the checkpoint and " in output
    assert "'factor': 2.0" in output and "in model.path with model.rope_scaling" in output
    assert "Traceback" not in output


def test_a_number_of_ranks_that_makes_no_whole_copies_is_refused(recorded):
    command = ("--set", "learner.parallel.tp=2", "--set", "learner.num_processes=2")
    environment = {**os.environ, "RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0"}
    program = subprocess.run(
        [sys.executable, "-m", "megatron_rl", "learn", str(recorded), "--replay", *command],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER_S,
    )
    assert program.returncode == 2
    assert (
        "3 learner ranks are not a multiple of tp * pp * cp = 2 * 1 * 1 = 2; start 2 or 4"
        in program.stderr
    )
    assert "Traceback" not in program.stderr


def test_a_save_that_fails_in_the_background_ends_the_run_at_the_next_step(recorded, tmp_path):
    config = _copy_of(recorded, tmp_path)
    # Files larger than 1000 KiB cannot be written, as on a full disk: the checkpoint's are.
    command = f"ulimit -f 1000; exec {sys.executable} -m megatron_rl learn {config} --replay"
    program = subprocess.run(
        ["bash", "-c", f"{command} --set checkpoint.every=1"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER_S,
    )
    output = program.stdout + program.stderr
    assert program.returncode == 1, output
    checkpoints = tmp_path / "run" / "checkpoints"
    assert f"{checkpoints}/.step_000001.partial: cannot be written: " in output
    assert "File too large" in output
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
    assert not (checkpoints / "latest.json").exists()


def _copy_of(recorded: Path, folder: Path) -> Path:
    """Return the configuration of another run with the same batches."""
    run_dir = recorded.with_suffix("")
    batches = RunDir(folder / "run").batches
    batches.parent.mkdir()
    batches.symlink_to(RunDir(run_dir).batches)
    config = folder / "run.toml"
    config.write_text(recorded.read_text().replace(str(run_dir), str(folder / "run")))
    return config
