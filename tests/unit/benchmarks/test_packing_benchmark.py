"""The benchmarks explain themselves, and the one that needs no server runs in seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.lengthy

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def run(name: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(BENCHMARKS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "name",
    [
        "packing.py",
        "data_start.py",
        "logprobs.py",
        "learner.py",
        "generation.py",
        "weight_update.py",
        "shard_update.py",
        "reshard_scale.py",
        "run_all.py",
    ],
)
def test_every_benchmark_says_what_it_compares_and_how_to_run_it(name):
    result = run(name, "--help")
    assert result.returncode == 0, result.stderr
    assert f"python benchmarks/{name}" in result.stdout


def test_packed_rows_waste_less_than_rows_in_order_and_those_less_than_padding(tmp_path):
    result = run("packing.py", "--quick", "--output", tmp_path)
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "packing.json").read_text())["rows"]
    assert [row["lengths"] for row in rows] == ["uniform", "log-normal", "bimodal"]
    for row in rows:
        assert row["packed waste %"] < row["in order %"] < row["padded %"]
    shared = json.loads((tmp_path / "packing_balance.json").read_text())["rows"]
    for row in shared:
        assert row["by FLOPs %"] <= row["by tokens %"]
        assert row["by FLOPs %"] <= row["rows by tokens %"]
