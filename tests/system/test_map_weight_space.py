"""A map of weight space from real checkpoints and a real server, stopped half-way."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import HANGS_AFTER_S, REPOSITORY, SERVE_PYTHON, wait_for, write_config, write_inputs

from megatron_rl.run_dir import RunDir, read_jsonl
from tests.trajectory import write_trajectory

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.skipif(not SERVE_PYTHON.exists(), reason="no .venv-serve; run `make env`"),
]
STEPS = (2, 4, 6)
NUM_POINTS = 1 + 2 * 2


def mapping(config: Path, out: Path, *more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [
            *(sys.executable, REPOSITORY / "tools/map_weight_space.py", config, "--out", out),
            *("--limit", "5", "--samples", "2", "--grid", "2", *more),
        ],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_stopped_map_goes_on_and_has_every_point_once(tmp_path):
    inputs = write_inputs(tmp_path / "inputs")
    run_dir = RunDir(tmp_path / "run")
    config = write_config(inputs, run_dir.root, sft=False)
    write_trajectory(inputs / "model", run_dir.checkpoints, STEPS, spread=0.05)
    out = tmp_path / "map"

    points = out / "points.jsonl"
    with mapping(config, out) as first:
        wait_for(lambda: first.poll() is not None or any(read_jsonl(points)))
        first.send_signal(signal.SIGINT)
        _, complaints = first.communicate(timeout=HANGS_AFTER_S)
    before = list(read_jsonl(points))
    assert first.returncode != 0, complaints
    assert 1 <= len(before) < NUM_POINTS

    with mapping(config, out) as second:
        output, complaints = second.communicate(timeout=HANGS_AFTER_S)
    assert second.returncode == 0, complaints
    assert output.strip() == str(out / "weight_space.html")
    records = list(read_jsonl(points))
    assert records[: len(before)] == before
    places = {(record["along_1"], record["along_2"]) for record in records}
    assert len(places) == len(records) == NUM_POINTS
    assert (0.0, 0.0) in places
    for record in records:
        assert record["samples"] == 10
        assert 1 <= record["length"] <= 32
        assert record["reward"] <= record["reward_without_length"]
    # Other weights draw other completions: the server did not keep those of the first point.
    assert len({record["length"] for record in records}) > 1
    positions = json.loads((out / "directions.json").read_text())["positions"]
    assert len(positions) == len(STEPS)
    assert "step 4" in (out / "weight_space.html").read_text()

    with mapping(config, out, "--samples", "3") as other:
        _, complaints = other.communicate(timeout=HANGS_AFTER_S)
    assert other.returncode == 2
    assert "its points were measured with num_samples = 2, not 3" in complaints
