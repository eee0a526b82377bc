"""``megatron-rl ablate``: what it prints, writes and refuses without running anything."""

import json
from pathlib import Path

import pytest

from megatron_rl.cli import main

BASE = """
run_dir = "elsewhere"
num_steps = 3
model = {path = "model"}
data = {train = "train.jsonl"}
"""
DEFINITION = """
base = "base.toml"
run_dir = "runs/x"
question = "Is b better?"
seeds = [1, 2]
[[variants]]
name = "a"
[[variants]]
name = "b"
set = {algorithm.clip_high = 0.5}
"""


@pytest.fixture
def definition(tmp_path: Path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.toml").write_text(BASE)
    (tmp_path / "ablation.toml").write_text(DEFINITION)
    return "ablation.toml"


def run_folder(folder: Path, *, rewards: list[float]) -> None:
    folder.mkdir(parents=True)
    lines = ({"step": n, "reward/total": r} for n, r in enumerate(rewards, start=1))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_list_says_what_there_is_and_how_far_it_is(definition, tmp_path, capsys):
    run_folder(tmp_path / "runs/x/a/seed_2", rewards=[0.1, 0.2])
    assert main(["ablate", definition, "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "variants",
        "       a: nothing",
        "       b: algorithm.clip_high = 0.5",
        "runs (--task INDEX)",
        "    0  a/seed_1: not begun",
        "    1  b/seed_1: not begun",
        "    2  a/seed_2: at step 2 of 3",
        "    3  b/seed_2: not begun",
    ]


def test_report_only_draws_what_there_is(definition, tmp_path, capsys):
    run_folder(tmp_path / "runs/x/a/seed_1", rewards=[0.1, 0.2])
    assert main(["ablate", definition, "--report-only"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/runs/x/report.html\n"
    page = (tmp_path / "runs/x/report.html").read_text()
    assert "Is b better?" in page and "at step 2 of 3" in page
    summary = json.loads((tmp_path / "runs/x/summary.json").read_text())
    assert summary["reference"] == "a" and summary["seeds"] == [1, 2]
    assert summary["variants"][0]["runs"] == {"1": "at step 2 of 3", "2": "not begun"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dry-run"], 'ablation.toml: variant "a": '),
        (["--only", "c"], "--only c: there is no such run; variants: a, b"),
        (["--set", "rollout.n_bach=3"], "unknown key rollout.n_bach; did you mean rollout.n_batch"),
        (["--task", "4"], "--task 4: there are 4 runs, from 0; see --list"),
        (["--start"], "--start 0: there are 0 starts"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(
    definition, tmp_path, capsys, options, message
):
    assert main(["ablate", definition, *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
