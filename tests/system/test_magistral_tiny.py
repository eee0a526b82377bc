"""The campaign in miniature, with few steps of each: teacher in stages, traces, base, student."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import REPOSITORY, SERVE_PYTHON, run

from megatron_rl.run_dir import RunDir, read_jsonl
from megatron_rl.stage_record import read_stage_ends

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.skipif(not SERVE_PYTHON.exists(), reason="no serving environment in .venv-serve"),
]
EXAMPLE = REPOSITORY / "examples/magistral_tiny"


@pytest.fixture(scope="module")
def campaign(tmp_path_factory) -> Path:
    """Return a folder with the example's data, and its files as of that folder."""
    folder = tmp_path_factory.mktemp("campaign")
    make = [sys.executable, str(EXAMPLE / "make_data.py"), str(folder / "data")]
    subprocess.run(make, check=True)
    for path in EXAMPLE.glob("*.toml"):
        text = path.read_text().replace("runs/magistral_tiny-data", str(folder / "data"))
        text = text.replace("runs/magistral_tiny", str(folder))
        (folder / path.name).write_text(text)
    return folder


def done(*arguments: str) -> str:
    code, output = run(*arguments)
    assert code == 0, output[-3000:]
    return output


def test_a_student_starts_from_the_traces_of_its_teacher(campaign):
    stages = ("two-digits", "three-digits", "four-digits")
    shorter = [f"--set=stages.{name}.num_steps=2" for name in stages]
    shorter.append("--set=stages.two-digits.ends_when=null")
    server = "--set=generators.python=" + str(SERVE_PYTHON)
    done("train", str(campaign / "medium.toml"), *shorter, server, "--set=evaluation.every=0")
    medium = RunDir(campaign / "medium")
    assert [end.name for end in read_stage_ends(medium)] == list(stages)
    lengths = [record["rollout/length_mean"] for record in read_jsonl(medium.metrics)]
    assert lengths[0] < lengths[-1]  # sums of four digits, even when they are guessed

    traces = campaign / "traces.jsonl"
    done("traces", str(medium.root), "--out", str(traces), "--per-problem", "4")
    assert all(json.loads(line)["response"] for line in traces.read_text().splitlines())
    done("sft", str(campaign / "small_base.toml"), "--set=sft.batch_size=512")
    few = ("--set=num_steps=2", "--set=evaluation.every=0", "--set=sft.num_epochs=1")
    done("train", str(campaign / "small.toml"), *few, server)
    done("train", str(campaign / "small_rl.toml"), *few[:2], server)
    for name in ("small", "small_rl"):
        evaluations = list(read_jsonl(RunDir(campaign / name).evaluations))
        assert {(r["when"], r["version"]) for r in evaluations} == {("before", 0), ("after", 2)}
