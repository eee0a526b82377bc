"""Three models that mark their thoughts differently learn by the same settings, end to end."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import REPOSITORY, SERVE_PYTHON, run

from megatron_rl.run_dir import RunDir, read_jsonl

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not SERVE_PYTHON.exists(), reason="no serving environment in .venv-serve"),
]
EXAMPLE = REPOSITORY / "examples" / "think_formats"
SAID = {
    "own_tags": "think format: <think>...</think> (neither prompts nor chat template",
    "opened_by_prompt": "think format: <think>...</think> (prompts end with it); the prompt opens",
    "special_tokens": "think format: [THINK]...[/THINK] (the chat template mentions the tags",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("think_formats")
    subprocess.run([sys.executable, EXAMPLE / "make_data.py", folder], check=True)
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "special_tokens",
        pytest.param("own_tags", marks=pytest.mark.slow),
        pytest.param("opened_by_prompt", marks=pytest.mark.slow),
    ],
)
def test_a_model_learns_whatever_marks_its_thoughts(data, tmp_path, name):
    run_dir = RunDir(tmp_path / "run")
    settings = {
        "run_dir": run_dir.root,
        "model.path": data / name,
        "data.train": data / "train.jsonl",
        "data.evaluation": data / "evaluation.jsonl",
        "sft.data": data / "sft.jsonl",
        "generators.python": SERVE_PYTHON,
    }
    words = [word for key, value in settings.items() for word in ("--set", f'{key}="{value}"')]
    exit_code, output = run("train", str(EXAMPLE / "run.toml"), *words)
    assert exit_code == 0, output
    assert SAID[name] in output
    metrics = list(read_jsonl(run_dir.metrics))
    assert min(record["reward/format"] for record in metrics) > 0.09  # of 0.1: all but a few
    # Servers stop at the end of a turn, which is another token than the tokenizer's eos_token.
    assert max(record["rollout/truncated"] for record in metrics) < 0.2
    before, after = (record["pass@1"] for record in read_jsonl(run_dir.evaluations))
    # Taught to be right every second time, 0.55; a guess is right one time in ten.
    assert 0.2 < before < 0.8
    assert after > before + 0.1
