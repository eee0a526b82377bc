"""A killed conversion goes on after the files that are whole, and only of its own work."""

import pytest

from megatron_rl.conversion.manifest import TensorRecord
from megatron_rl.conversion.progress import end_progress, finish_file, resume

IDENTITY = {"source": "model", "dtype": "float32"}
RECORD = {"w": TensorRecord(shape=(2, 3), dtype="float32", sha256="0")}


@pytest.fixture
def folder(tmp_path):
    """Two finished files of a conversion, and one that was being written."""
    folder = tmp_path / ".target.converting"
    assert resume(folder, IDENTITY) == {}
    for name in ("one", "two"):
        (folder / name).write_text(name)
        finish_file(folder, name, RECORD, [["key", [0, 1], 2, 3]])
    (folder / "three").write_text("th")
    return folder


def test_finished_files_come_back_with_what_was_noted(folder):
    finished = resume(folder, IDENTITY)
    assert list(finished) == ["one", "two"]
    assert finished["two"].tensors == RECORD
    assert finished["two"].placement == [["key", [0, 1], 2, 3]]


def test_a_file_whose_bytes_have_changed_is_made_again(folder):
    (folder / "one").write_text("on?")
    assert list(resume(folder, IDENTITY)) == ["two"]


def test_a_line_that_was_cut_off_is_forgotten_and_written_again(folder):
    path = folder / "progress.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert list(resume(folder, IDENTITY)) == ["one"]
    finish_file(folder, "two", RECORD, None)
    assert list(resume(folder, IDENTITY)) == ["one", "two"]


@pytest.mark.parametrize("content", ["", "{", "[]\n", '{"source": "other"}\n'])
def test_work_that_is_not_understood_or_of_another_conversion_is_removed(content, folder):
    (folder / "progress.jsonl").write_text(content)
    assert resume(folder, IDENTITY) == {}
    assert [path.name for path in folder.iterdir()] == ["progress.jsonl"]


def test_nothing_of_it_is_left_in_the_target(folder):
    end_progress(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["one", "three", "two"]
