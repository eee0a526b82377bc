import importlib.util
import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megatron_rl.errors import ConfigError
from megatron_rl.run_dir import read_jsonl
from megatron_rl.telemetry import check_telemetry, open_telemetry, truncate_metrics

NO_EXTRAS = {"tensorboard": None, "wandb_project": None, "run_name": "test"}


def write_steps(path: Path, *steps: int) -> None:
    path.write_text(
        "".join(json.dumps({"step": step, "policy/loss": 0.5}) + "\n" for step in steps)
    )


def steps_in(path: Path) -> list[int]:
    return [record["step"] for record in read_jsonl(path)]


def test_each_step_is_one_json_line_with_its_time(tmp_path: Path):
    telemetry = open_telemetry(tmp_path / "metrics.jsonl", **NO_EXTRAS, from_step=0)
    telemetry.record(1, {"policy/loss": 0.5})
    telemetry.record(2, {"policy/loss": 0.25})
    telemetry.close()
    first, second = read_jsonl(tmp_path / "metrics.jsonl")
    assert (first["step"], first["policy/loss"]) == (1, 0.5)
    assert (second["step"], second["policy/loss"]) == (2, 0.25)
    assert first["time"] <= second["time"]


def test_truncating_drops_the_steps_that_will_be_trained_again(tmp_path: Path):
    write_steps(tmp_path / "metrics.jsonl", 1, 2, 3, 4)
    truncate_metrics(tmp_path / "metrics.jsonl", from_step=2)
    assert steps_in(tmp_path / "metrics.jsonl") == [1, 2]


def test_truncating_drops_a_line_that_a_crash_cut_short(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, 1, 2)
    with path.open("a") as file:
        file.write('{"step": 3, "policy/lo')
    truncate_metrics(path, from_step=5)
    with path.open("a") as file:
        file.write('{"step": 3}\n')
    assert steps_in(path) == [1, 2, 3]


def test_truncating_leaves_a_complete_file_untouched(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, 1, 2)
    inode = path.stat().st_ino
    truncate_metrics(path, from_step=2)
    assert path.stat().st_ino == inode


def test_truncating_a_missing_file_does_nothing(tmp_path: Path):
    truncate_metrics(tmp_path / "metrics.jsonl", from_step=0)
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_replaces_its_steps_in_every_place(tmp_path: Path):
    path, events = tmp_path / "metrics.jsonl", tmp_path / "tensorboard"
    extras = NO_EXTRAS | {"tensorboard": events}
    crashed = open_telemetry(path, **extras, from_step=0)
    for step in (1, 2, 3):
        crashed.record(step, {"policy/loss": 1.0 * step})
    crashed.close()
    resumed = open_telemetry(path, **extras, from_step=1)
    resumed.record(2, {"policy/loss": 20.0})
    resumed.close()

    assert [(r["step"], r["policy/loss"]) for r in read_jsonl(path)] == [(1, 1.0), (2, 20.0)]
    accumulator = EventAccumulator(str(events)).Reload()
    scalars = [(event.step, event.value) for event in accumulator.Scalars("policy/loss")]
    assert scalars == [(1, 1.0), (2, 20.0)]


without_wandb = pytest.mark.skipif(
    importlib.util.find_spec("wandb") is not None, reason="wandb is installed"
)


@without_wandb
def test_naming_a_wandb_project_without_the_package_is_refused_by_key():
    with pytest.raises(ConfigError, match=r"telemetry\.wandb_project"):
        check_telemetry(tensorboard=False, wandb_project="math")


def test_asking_for_nothing_or_for_what_is_installed_is_accepted():
    check_telemetry(tensorboard=False, wandb_project=None)
    check_telemetry(tensorboard=True, wandb_project=None)


@without_wandb
def test_a_folder_that_wandb_left_behind_is_not_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"telemetry\.wandb_project"):
        check_telemetry(tensorboard=False, wandb_project="math")
