"""The run.toml of README.md trains to the end, with the real SGLang and the real Megatron."""

import json
import re
from pathlib import Path

import pytest
from tiny_run import REPOSITORY, SERVE_PYTHON, run, write_inputs

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not SERVE_PYTHON.exists(), reason="no serving environment in .venv-serve"),
]

README = (REPOSITORY / "README.md").read_text()
SMALL = [
    "num_steps=1",
    "rollout.group_size=4",
    "rollout.n_batch=16",
    "rollout.n_async=16",
    "generators.sampling.max_new_tokens=16",
    # A server would else set aside most of this machine's memory for its cache.
    "generators.sglang.max-total-tokens=8192",
    # Random weights are never right: no group would be left to learn from.
    "rollout.drop_zero_advantage=never",
]
"""What this machine and random weights need; everything else is as in README.md."""


def block_of(language: str) -> str:
    """Return the one block of README.md in this language."""
    (block,) = re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    return block


def test_the_configuration_of_the_readme_trains_on_problems_of_its_shape(tmp_path: Path):
    inputs = write_inputs(tmp_path)
    problems = inputs / "problems.jsonl"
    problems.write_text(block_of("json") + problems.read_text())
    (inputs / "held_out.jsonl").write_text(block_of("json"))
    settings = block_of("toml")
    for path, ours in {
        "runs/mine": "run",
        "models/my-model": "model",
        "problems.jsonl": "problems.jsonl",
        "held_out.jsonl": "held_out.jsonl",
    }.items():
        assert settings.count(f'"{path}"') == 1
        settings = settings.replace(f'"{path}"', f'"{inputs / ours}"')
    config = tmp_path / "run.toml"
    config.write_text(settings)

    exit_code, output = run("train", str(config), *(f"--set={setting}" for setting in SMALL))

    assert exit_code == 0, output
    assert (tmp_path / "run/hf/model.safetensors").stat().st_size > 0
    assert (tmp_path / "run/report.html").stat().st_size > 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["steps"] == 1 and summary["evaluation/problems"] == 1

    (tmp_path / "run/report.html").unlink()
    assert run("report", str(tmp_path / "run")) == (0, f"{tmp_path}/run/report.html\n")
    assert (tmp_path / "run/report.html").stat().st_size > 0
