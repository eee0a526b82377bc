"""Formats of problem files, recognised by name, and folders of them."""

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from megatron_rl.data.rows.arrow_tables import open_arrow, open_parquet
from megatron_rl.data.rows.json_array import write_elements
from megatron_rl.data.rows.json_lines import open_lines
from megatron_rl.data.rows.protocol import Rows
from megatron_rl.data.rows.scratch import naming_full_disks, open_scratch
from megatron_rl.data.rows.streams import COMPRESSED, open_stream
from megatron_rl.errors import DataError

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_SNIFFED = 4096


def open_rows(path: Path, *, columns: Collection[str] | None) -> Rows:
    """Open the rows of a file, or of a folder that holds one table.

    * ``.parquet``, ``.arrow``; ``.json`` that holds an array; else JSON lines.
    * JSON may be compressed: ``.gz``, ``.zst``.
    * A folder of Hugging Face datasets' ``save_to_disk``, or of Parquet files of one split.

    Args:
        path: file or folder.
        columns: names of the columns that are needed, None for all; JSON is read whole anyway.

    Raises:
        DataError: names the file and why it cannot be read.
    """
    if path.is_dir():
        return _open_folder(path, columns)
    name = path.with_suffix("") if path.suffix in COMPRESSED else path
    if name.suffix in (".parquet", ".arrow"):
        if name != path:
            raise DataError(f"{path}: must not be compressed a second time; decompress it")
        open_table = open_parquet if name.suffix == ".parquet" else open_arrow
        return _checked(path, open_table([path], columns=columns))
    return _open_json(path, is_compressed=name != path, may_be_array=name.suffix == ".json")


def _open_json(path: Path, *, is_compressed: bool, may_be_array: bool) -> Rows:
    is_array = may_be_array and _begins_array(path)
    if not (is_compressed or is_array):
        try:
            with path.open("rb") as file:
                return open_lines(path, file, path=str(path), unit="line")
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    scratch = open_scratch()
    with open_stream(path) as stream:
        if is_array:
            write_elements(path, stream, scratch)
        else:
            while block := stream.read(1 << 20):
                with naming_full_disks(path):
                    scratch.write(block)
    with naming_full_disks(path):
        scratch.flush()
    return open_lines(path, scratch, path=None, unit="element" if is_array else "line")


def _begins_array(path: Path) -> bool:
    with open_stream(path) as stream:
        return stream.read(_SNIFFED).lstrip().startswith(b"[")


def _open_folder(path: Path, columns: Collection[str] | None) -> Rows:
    if (path / "dataset_dict.json").is_file():
        splits = [item.name for item in sorted(path.iterdir()) if item.is_dir()]
        raise DataError(
            f"{path}: holds several splits; name the folder of one: "
            f"{', '.join(str(path / split) for split in splits)}"
        )
    if (path / "state.json").is_file():
        return _checked(path, open_arrow(_saved_files(path), columns=columns))
    files = sorted(path.glob("*.parquet"))
    if not files:
        raise DataError(
            f"{path}: a folder must hold Parquet files, or what datasets' save_to_disk writes "
            "(state.json); name a file"
        )
    splits = sorted({_SHARD.sub("", file.stem) for file in files})
    is_numbered = all(_SHARD.search(file.stem) for file in files)
    if len(splits) > 1 and (is_numbered or {"train", "test"} <= set(splits)):
        raise DataError(
            f"{path}: holds Parquet files of several splits ({', '.join(splits)}); move those of "
            "one into a folder, or name a file"
        )
    return _checked(path, open_parquet(files, columns=columns))


def _saved_files(path: Path) -> list[Path]:
    """Return the Arrow files of a folder that ``Dataset.save_to_disk`` wrote, in order."""
    state_file = path / "state.json"
    try:
        state: Any = json.loads(state_file.read_text())
        files = [path / item["filename"] for item in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{state_file}: does not list the dataset's files: {error!r}") from error
    if not files:
        raise DataError(f"{path}: a dataset without files")
    return files


def _checked(path: Path, rows: Rows) -> Rows:
    if not len(rows):
        raise DataError(f"{path}: empty; expected a row for each problem")
    return rows
