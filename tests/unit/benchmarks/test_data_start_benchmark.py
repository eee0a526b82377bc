"""The benchmark of starting on many rows runs, in every format, with the same outcome."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.system]

SCRIPT = Path(__file__).parents[3] / "benchmarks/data_start.py"


def test_every_format_starts_with_the_same_problems(tmp_path):
    command = [sys.executable, str(SCRIPT), "--quick", "--output", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "data_start.json").read_text())["rows"]
    expected = ["train.jsonl", "train.jsonl.gz"]
    if importlib.util.find_spec("pyarrow") is not None:
        expected.append("train.parquet")
    assert [row["file"] for row in rows] == expected
    assert {row["rows"] for row in rows} == {25_000}
    (num_problems,) = {row["problems"] for row in rows}
    assert 22_000 < num_problems < 23_500  # one in ten repeats an earlier one
