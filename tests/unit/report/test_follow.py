import json
import os
from pathlib import Path

import pytest

from megatron_rl.report.follow import GrowingRecords, JsonlFollower
from megatron_rl.run_dir import append_jsonl
from megatron_rl.telemetry import truncate_metrics


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def write_steps(path: Path, *steps: int) -> None:
    for step in steps:
        append_jsonl(path, {"step": step})


def test_only_what_was_appended_is_read(path: Path):
    follower = JsonlFollower(path)
    assert follower.read_new() == []
    write_steps(path, 1, 2)
    assert follower.read_new() == [{"step": 1}, {"step": 2}]
    assert follower.read_new() == []
    write_steps(path, 3)
    assert follower.read_new() == [{"step": 3}]


def test_a_line_is_read_once_it_is_whole(path: Path):
    follower = JsonlFollower(path)
    path.write_text('{"step": 1}\n{"st')
    assert follower.read_new() == [{"step": 1}]
    with path.open("a") as file:
        file.write('ep": 2}\n')
    assert follower.read_new() == [{"step": 2}]


def test_a_line_whose_contents_another_machine_has_not_written_yet_waits(path: Path):
    follower = JsonlFollower(path)
    path.write_bytes(b'{"step": 1}\n' + bytes(6) + b'": 2}\n')
    assert follower.read_new() == [{"step": 1}]
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n')
    assert follower.read_new() == [{"step": 2}]


def test_a_resumed_run_drops_steps_and_trains_them_again(path: Path):
    records = GrowingRecords(path)
    write_steps(path, 1, 2, 3)
    assert records.refresh()
    truncate_metrics(path, from_step=1)
    write_steps(path, 2)
    assert records.refresh()
    assert [record["step"] for record in records.records] == [1, 2]
    assert not records.refresh()


def test_a_file_with_the_inode_of_the_one_before_it_is_still_another(path: Path):
    records = GrowingRecords(path)
    write_steps(path, 1, 2)
    records.refresh()
    # In place, and longer than before.
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (5, 6, 7, 8)))
    assert records.refresh()
    assert [record["step"] for record in records.records] == [5, 6, 7, 8]


def test_a_file_that_was_cut_is_read_anew(path: Path):
    records = GrowingRecords(path)
    write_steps(path, 1, 2)
    records.refresh()
    os.truncate(path, len('{"step": 1}\n'))
    assert records.refresh()
    assert records.records == [{"step": 1}]


def test_a_folder_that_was_removed_leaves_nothing(path: Path):
    records = GrowingRecords(path)
    write_steps(path, 1)
    records.refresh()
    path.unlink()
    assert records.refresh()
    assert records.records == []
    assert not records.refresh()
