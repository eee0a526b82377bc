"""Which sets ``megatron-rl evaluate`` scores, and what is refused before a server is asked."""

from pathlib import Path

import pytest

from megatron_rl.cli import main

CONFIG = """
run_dir = "run"
num_steps = 1
model.path = "no-model"
data.train = "train.jsonl"
data.evaluation = "held.jsonl"
[[evaluation.sets]]
name = "aime24"
path = "aime.jsonl"
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text(CONFIG)
    return "run.toml"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--sets", "aime25"],
            "--sets aime25: there is no such set; there are data.evaluation, aime24",
        ),
        (
            ["--problems", "x.jsonl", "--sets", "aime24"],
            "--problems x.jsonl and --sets aime24 must not be given together; remove one",
        ),
        (
            ["--set", "data.evaluation=null", "--set", "evaluation.sets=[]"],
            "nothing to evaluate on: give --problems, or set data.evaluation or "
            "[[evaluation.sets]]",
        ),
    ],
)
def test_sets_that_cannot_be_meant_are_refused(config, arguments, message, capsys):
    assert main(["evaluate", config, *arguments]) == 2
    assert message in capsys.readouterr().err
