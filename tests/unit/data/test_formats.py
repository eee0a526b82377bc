"""Files of every format hold the same rows; those that cannot be read are named."""

import gzip
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_rl.data.rows import open_rows
from megatron_rl.data.rows.json_array import write_elements
from megatron_rl.errors import DataError

RECORDS = [
    {"id": "a", "n": 1, "nested": {"x": [1, 2], "y": "\u2028 \u00e9"}},
    {"id": "b", "n": 2, "nested": {"x": [], "y": "[{,"}},
    {"id": "c", "n": 3, "nested": {"x": [3], "y": '"\\'}},
]


def json_lines(path: Path) -> Path:
    path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in RECORDS))
    return path


def json_array(path: Path) -> Path:
    path.write_text(json.dumps(RECORDS, indent=2, ensure_ascii=False))
    return path


def gzipped(path: Path) -> Path:
    path.write_bytes(gzip.compress(json_lines(path.with_suffix("")).read_bytes()))
    return path


def gzipped_array(path: Path) -> Path:
    path.write_bytes(gzip.compress(json_array(path.with_suffix("")).read_bytes()))
    return path


def zstandard(path: Path) -> Path:
    pa = pytest.importorskip("pyarrow")
    data = json_lines(path.with_suffix("")).read_bytes()
    with pa.CompressedOutputStream(str(path), "zstd") as out:
        out.write(data)
    return path


def parquet(path: Path) -> Path:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet as pq

    pq.write_table(pa.Table.from_pylist(RECORDS), path, row_group_size=2)
    return path


def shards(path: Path) -> Path:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet as pq

    path.mkdir()
    for number, part in enumerate([RECORDS[:2], RECORDS[2:]]):
        pq.write_table(pa.Table.from_pylist(part), path / f"train-0000{number}-of-00002.parquet")
    return path


def arrow_file(path: Path) -> Path:
    pa = pytest.importorskip("pyarrow")
    table = pa.Table.from_pylist(RECORDS)
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    return path


def saved_dataset(path: Path) -> Path:
    """Write what ``datasets.Dataset.save_to_disk(path, num_shards=2)`` writes."""
    pa = pytest.importorskip("pyarrow")
    path.mkdir()
    names = [f"data-0000{number}-of-00002.arrow" for number in range(2)]
    for name, part in zip(names, [RECORDS[:1], RECORDS[1:]], strict=True):
        table = pa.Table.from_pylist(part)
        with pa.ipc.new_stream(str(path / name), table.schema) as writer:
            writer.write_table(table)
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
    (path / "state.json").write_text(json.dumps(state))
    (path / "dataset_info.json").write_text("{}")
    return path


FILES = [
    (json_lines, "t.jsonl", "t.jsonl:2"),
    (json_lines, "without-suffix", "without-suffix:2"),
    (json_lines, "t.json", "t.json:2"),
    (json_array, "t.json", "t.json: item 2"),
    (gzipped, "t.jsonl.gz", "t.jsonl.gz:2"),
    (gzipped_array, "t.json.gz", "t.json.gz: item 2"),
    (zstandard, "t.jsonl.zst", "t.jsonl.zst:2"),
    (parquet, "t.parquet", "t.parquet: row group 0, row 2"),
    (shards, "t", "train-00000-of-00002.parquet: row group 0, row 2"),
    (arrow_file, "t.arrow", "t.arrow: row 2"),
    (saved_dataset, "t", "data-00001-of-00002.arrow: row 1"),
]


@pytest.mark.parametrize(("write", "name", "second"), FILES)
def test_every_format_holds_the_same_rows(tmp_path: Path, write, name, second):
    rows = open_rows(write(tmp_path / name), columns=None)
    assert list(rows.records(0, len(rows))) == RECORDS
    assert list(rows.records(1, 2)) == RECORDS[1:2]
    assert rows.where(1).endswith(f"/{second}")
    assert json.loads(rows.line(1)) == RECORDS[1]


@pytest.mark.parametrize(("write", "name", "second"), FILES)
def test_another_process_reads_the_same_rows(tmp_path: Path, write, name, second):
    rows = open_rows(write(tmp_path / name), columns=None)
    part = pickle.loads(pickle.dumps(rows.part(1, 3)))
    assert list(part.records(1, 3)) == RECORDS[1:]
    assert list(part.records(2, 3)) == RECORDS[2:]
    assert part.where(1) == rows.where(1)


@pytest.mark.parametrize("write", [parquet, arrow_file])
def test_columns_that_are_not_asked_for_are_not_read(tmp_path: Path, write):
    name = "t.parquet" if write is parquet else "t.arrow"
    rows = open_rows(write(tmp_path / name), columns={"id", "absent"})
    assert list(rows.records(0, 3)) == [{"id": "a"}, {"id": "b"}, {"id": "c"}]


def test_row_groups_are_counted_from_nought_and_their_rows_from_one(tmp_path: Path):
    rows = open_rows(parquet(tmp_path / "t.parquet"), columns=None)
    assert rows.where(2).endswith("row group 1, row 1")


def test_what_json_cannot_say_becomes_text_and_null_is_left_out(tmp_path: Path):
    pa = pytest.importorskip("pyarrow")
    from datetime import date

    from pyarrow import parquet as pq

    table = pa.table({"day": [date(2026, 11, 29), None], "raw": [[b"x"], []]})
    pq.write_table(table, tmp_path / "t.parquet")
    rows = open_rows(tmp_path / "t.parquet", columns=None)
    assert list(rows.records(0, 2)) == [{"day": "2026-11-29", "raw": ["b'x'"]}, {"raw": []}]


@settings(max_examples=30)
@given(
    st.lists(st.dictionaries(st.text(), st.text() | st.floats(allow_nan=False), max_size=3)),
    st.sampled_from([None, 0, 3]),
)
def test_the_elements_of_any_array_become_lines(tmp_path_factory, records, indent):
    folder = tmp_path_factory.mktemp("array")
    (folder / "in.json").write_text(json.dumps(records, indent=indent))
    with (folder / "in.json").open("rb") as source, (folder / "out").open("wb") as out:
        write_elements(folder / "in.json", source, out)
    lines = (folder / "out").read_bytes().splitlines()
    assert [json.loads(line) for line in lines] == records


def test_an_element_longer_than_what_is_read_at_a_time_is_whole(tmp_path: Path):
    records = [{"text": "x" * 3_000_000}, {"text": "y"}]
    (tmp_path / "t.json").write_text(json.dumps(records))
    rows = open_rows(tmp_path / "t.json", columns=None)
    assert list(rows.records(0, 2)) == records


def test_lines_beyond_a_block_are_found(tmp_path: Path):
    # 16 MiB are read at a time; blank lines and lines that begin with blanks around that border.
    long, path = "x" * ((1 << 24) - 40), tmp_path / "t.jsonl"
    lines = [f'{{"a": "{long}"}}', "", "  ", ' {"a": "1"}', "\t", '{"a": "2"}', ""]
    path.write_text("\n".join(lines))
    rows = open_rows(path, columns=None)
    assert len(rows) == 3
    assert [rows.where(i).rpartition(":")[2] for i in range(3)] == ["1", "4", "6"]
    assert list(rows.records(1, 3)) == [{"a": "1"}, {"a": "2"}]


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["", " ", "{}", ' {"a": 1}', "\r", '{"b": 2}\r']), max_size=12))
def test_lines_are_those_of_the_text(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("lines") / "t.jsonl"
    path.write_bytes("\n".join(lines).encode())
    expected = [(n, json.loads(line)) for n, line in enumerate(lines, 1) if line.strip()]
    if not expected:
        with pytest.raises(DataError, match="empty; expected one JSON object per line"):
            open_rows(path, columns=None)
        return
    rows = open_rows(path, columns=None)
    numbers = [int(rows.where(i).rpartition(":")[2]) for i in range(len(rows))]
    assert list(zip(numbers, rows.records(0, len(rows)), strict=True)) == expected


def write_text(name: str, text: str | bytes):
    def write(folder: Path) -> Path:
        data = text if isinstance(text, bytes) else text.encode()
        (folder / name).write_bytes(data)
        return folder / name

    return write


def write_folder(*names: str):
    def write(folder: Path) -> Path:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("{}")
        return folder

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_text("t.json", '[{"a": 1} {"a": 2}]'), "t.json: expected a comma after item 1, fou"),
        (write_text("t.json", '[{"a": 1},]'), "t.json: a comma after the last item (1)"),
        (write_text("t.json", '[{"a": 1}, {"b": }]'), "t.json: item 2: not JSON"),
        (write_text("t.json", '[{"a": 1}'), "expected a comma after item 1, found the end of the "),
        (write_text("t.json", "[1]"), "t.json: item 1: expected a JSON object, got int"),
        (write_text("t.json", "[]"), "t.json: empty"),
        (write_text("t.json", b'["\xff"]'), "t.json: not UTF-8 text"),
        (write_text("t.jsonl", b'{}\n{"a": "\xff"}'), "t.jsonl:2: not UTF-8 text"),
        (write_text("t.jsonl.gz", "no"), "t.jsonl.gz: cannot be decompressed: Not a gzipped file"),
        (
            write_text("t.jsonl.gz", gzip.compress(b"{}" * 999)[:-12]),
            "t.jsonl.gz: cannot be decompressed: Compressed file ended before",
        ),
        (write_text("t.parquet.gz", "no"), "must not be compressed a second time"),
        (write_folder("dataset_dict.json", "train/x", "test/x"), "several splits; name the folder"),
        (write_folder("state.json"), "state.json: does not list the dataset's files"),
        (write_folder("a.txt"), "a folder must hold Parquet files, or what datasets' save_to_disk"),
        (
            write_folder("test-00000-of-00001.parquet", "train-00000-of-00001.parquet"),
            "holds Parquet files of several splits (test, train)",
        ),
        (write_folder("test.parquet", "train.parquet"), "of several splits (test, train)"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, write, message):
    with pytest.raises(DataError) as error:
        rows = open_rows(write(tmp_path), columns=None)
        list(rows.records(0, len(rows)))
    assert message in str(error.value)
    assert str(error.value).startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("t.parquet", "t.parquet: is no Parquet file that can be read"),
        ("t.arrow", "t.arrow: is no Arrow file that can be read"),
        ("t.jsonl.zst", "t.jsonl.zst: cannot be read"),
        ("absent/t.parquet", "cannot be read"),
    ],
)
def test_damaged_tables_are_named(tmp_path: Path, name, message):
    pytest.importorskip("pyarrow")
    if "/" not in name:
        (tmp_path / name).write_bytes(b"nothing of the kind, and long enough to be looked at")
    with pytest.raises(DataError) as error:
        open_rows(tmp_path / name, columns=None)
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "t.jsonl.zst"])
def test_without_pyarrow_the_command_that_installs_it_is_said(tmp_path: Path, monkeypatch, name):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)  # what import finds: nothing
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r't\..*: needs the package pyarrow.*pip install "megatron'):
        open_rows(tmp_path / name, columns=None)


def test_columns_that_differ_between_files_are_refused(tmp_path: Path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet as pq

    for number, value in enumerate(["text", [1]]):
        pq.write_table(pa.table({"a": [value]}), tmp_path / f"{number}.parquet")
    with pytest.raises(DataError, match="their columns do not go together"):
        open_rows(tmp_path, columns=None)


def test_a_scratch_file_that_does_not_fit_says_what_to_do(tmp_path: Path, monkeypatch):
    import megatron_rl.data.rows.formats as formats

    full = open("/dev/full", "w+b", buffering=0)  # noqa: SIM115
    monkeypatch.setattr(formats, "open_scratch", lambda: full)
    with pytest.raises(DataError, match=r"No space left on device; name a folder .*TMPDIR"):
        open_rows(gzipped(tmp_path / "t.jsonl.gz"), columns=None)


def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    rows = open_rows(gzipped(tmp_path / "t.jsonl.gz"), columns=None)
    assert len(rows) == 3 and list((tmp_path / "scratch").iterdir()) == []
    assert np.array_equal(list(rows.records(0, 3)), RECORDS)
