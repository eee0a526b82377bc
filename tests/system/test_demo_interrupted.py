"""The demo as a person runs it, stopped half-way and run again: it learns, and loses nothing."""

import json
import os
import signal
import subprocess
import sys

import pytest
from tiny_run import REPOSITORY, SERVE_PYTHON, wait_for

from megatron_rl.batch import load_batch
from megatron_rl.run_dir import RunDir, read_jsonl

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not SERVE_PYTHON.exists(), reason="no serving environment in .venv-serve"),
]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Run it until step 15, press Ctrl-C, and run it to the end."""
    folder = tmp_path_factory.mktemp("demo")
    make = [sys.executable, REPOSITORY / "examples/demo/make_data.py", folder / "data"]
    subprocess.run(make, check=True)
    settings = {
        "run_dir": folder / "run",
        "model.path": folder / "data/model",
        "data.train": folder / "data/train.jsonl",
        "data.evaluation": folder / "data/evaluation.jsonl",
        "sft.data": folder / "data/sft.jsonl",
        "generators.python": SERVE_PYTHON,
    }
    overrides = [w for key, value in settings.items() for w in ("--set", f"{key}={value}")]
    config = REPOSITORY / "examples/demo/run.toml"
    command = [sys.executable, "-m", "megatron_rl", "train", config, *overrides]
    run_dir = RunDir(folder / "run")
    with subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True) as first:
        wait_for(lambda: len(list(read_jsonl(run_dir.metrics))) >= 15, within_s=1200)
        os.killpg(first.pid, signal.SIGINT)
        assert first.wait(timeout=15) == 75
    subprocess.run(command, cwd=REPOSITORY, check=True)
    return run_dir


def test_it_learns_although_it_was_stopped_half_way(run_dir):
    summary = json.loads(run_dir.summary.read_text())
    assert 0.15 <= summary["pass@1/before"] <= 0.5
    assert summary["pass@1/after"] >= 0.85
    assert summary["policy_versions"] == summary["steps"] + 1 == 41


def test_generation_goes_on_while_the_learner_computes_and_while_weights_move(run_dir):
    summary = json.loads(run_dir.summary.read_text())
    assert summary["generation/busy_fraction"] >= 0.9
    newest = load_batch(max(run_dir.batches.glob("*.safetensors")))
    assert summary["rollout/spanning_fraction"] > 0
    assert newest.policy_versions_T.max() > 0
