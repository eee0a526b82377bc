"""Arrow rows: tables in memory-mapped files, of which a few records at a time become Python."""

import functools
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from megatron_rl.data.rows.arrow_package import arrow_package
from megatron_rl.data.rows.scratch import naming_full_disks, open_scratch, path_of
from megatron_rl.errors import DataError

_ROWS_AT_A_TIME = 8192
_FILE_MAGIC = b"ARROW1"


@dataclass(frozen=True, kw_only=True, slots=True)
class TablePart:
    """One file of a table."""

    name: str
    """File as the user knows it, for messages."""
    path: str
    """Arrow file to map."""
    group_starts: tuple[int, ...] | None
    """First row of each row group of a Parquet file; None for an Arrow file."""


class ArrowTable:
    """Rows of Arrow files that follow each other."""

    def __init__(
        self,
        parts: Sequence[TablePart],
        columns: Collection[str] | None,
        scratch: Sequence[BinaryIO],
    ) -> None:
        """Map the files.

        Args:
            parts: files of equal columns.
            columns: columns to read, those that are there; None for all.
            scratch: kept open for as long as the table is.

        Raises:
            DataError: a file is damaged, or its columns differ from those before it.
        """
        self._parts = tuple(parts)
        self._columns = columns
        self._scratch = scratch
        tables = [_mapped(part) for part in parts]
        arrow = arrow_package(Path(parts[0].name))
        try:
            table = arrow.concat_tables(tables, promote_options="permissive")
        except arrow.ArrowException as error:
            names = ", ".join(part.name for part in parts)
            raise DataError(f"{names}: their columns do not go together: {error}") from error
        self.column_names: tuple[str, ...] = tuple(table.column_names)
        if columns is not None:
            table = table.select([name for name in table.column_names if name in columns])
        self._table = table
        self._ends = np.cumsum([len(table) for table in tables])

    def __reduce__(self) -> tuple[Any, ...]:
        """Let another process map the same files; it is not to outlive this one."""
        return ArrowTable, (self._parts, self._columns, ())

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._table)

    def where(self, index: int) -> str:
        """Return file, row group if it has them, and row from 1 within that."""
        place = int(np.searchsorted(self._ends, index, side="right"))
        part = self._parts[place]
        row = index - (int(self._ends[place - 1]) if place else 0)
        if part.group_starts is None:
            return f"{part.name}: row {row + 1}"
        group = int(np.searchsorted(part.group_starts, row, side="right")) - 1
        return f"{part.name}: row group {group}, row {row - part.group_starts[group] + 1}"

    def records(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Yield rows in order; a field that is null is left out."""
        for first in range(start, stop, _ROWS_AT_A_TIME):
            piece = self._table.slice(first, min(_ROWS_AT_A_TIME, stop - first))
            columns = {name: _values(piece.column(name)) for name in piece.column_names}
            for place in range(len(piece)):
                # A column has a value in every row, so that null is how a field is missing.
                row = {name: values[place] for name, values in columns.items()}
                yield {name: value for name, value in row.items() if value is not None}

    def part(self, start: int, stop: int) -> "ArrowTable":
        """Return itself: it is mapped, and small to send; see :class:`Rows`."""
        return self

    def line(self, index: int) -> str:
        """Return the columns of a row that are read, as a line of JSON."""
        record = next(self.records(index, index + 1))
        return json.dumps(record, ensure_ascii=False, default=str)


def open_arrow(paths: Sequence[Path], *, columns: Collection[str] | None) -> ArrowTable:
    """Map Arrow files, of the streaming or the file format."""
    parts = [TablePart(name=str(path), path=str(path), group_starts=None) for path in paths]
    return ArrowTable(parts, columns, ())


def open_parquet(paths: Sequence[Path], *, columns: Collection[str] | None) -> ArrowTable:
    """Unpack the columns of Parquet files, which only read in order, and map them.

    Raises:
        DataError: a file is damaged, or there is no room in TMPDIR.
    """
    parts, scratch = [], []
    for path in paths:
        file = open_scratch()
        starts = _unpack(path, file, columns)
        parts.append(TablePart(name=str(path), path=path_of(file), group_starts=starts))
        scratch.append(file)
    return ArrowTable(parts, columns, scratch)


def _unpack(path: Path, out: BinaryIO, columns: Collection[str] | None) -> tuple[int, ...]:
    """Write columns as an Arrow stream; return the first row of each row group."""
    arrow = arrow_package(path)
    from pyarrow import parquet

    try:
        # Without buffering ahead: a row group may be the whole file.
        with parquet.ParquetFile(path, pre_buffer=False, memory_map=True) as file:
            names = [n for n in file.schema_arrow.names if columns is None or n in columns]
            schema = arrow.schema([file.schema_arrow.field(name) for name in names])
            writer = arrow.ipc.new_stream(out, schema)
            for batch in file.iter_batches(batch_size=_ROWS_AT_A_TIME, columns=names):
                with naming_full_disks(path):
                    writer.write_batch(batch.select(names))
            with naming_full_disks(path):
                writer.close()
                out.flush()
            groups = (file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))
            return tuple(np.cumsum([0, *groups]).tolist())
    except arrow.ArrowException as error:
        raise DataError(f"{path}: is no Parquet file that can be read: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _values(column: Any) -> list[Any]:
    """Return the values of a column as plain JSON."""
    values: list[Any] = column.to_pylist()
    if _has_other_types(column.type):  # times, decimals, bytes
        return [json.loads(json.dumps(value, default=str)) for value in values]
    return values


def _has_other_types(kind: Any) -> bool:
    from pyarrow import types

    if types.is_nested(kind):
        return any(_has_other_types(kind.field(i).type) for i in range(kind.num_fields))
    is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    is_number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    return not (is_text or is_number or types.is_null(kind))


# A worker is sent the same table with each part of it.
@functools.lru_cache(maxsize=64)
def _mapped(part: TablePart) -> Any:
    arrow = arrow_package(Path(part.name))
    try:
        source = arrow.memory_map(part.path)
        is_file = source.read(len(_FILE_MAGIC)) == _FILE_MAGIC
        source.seek(0)
        reader = arrow.ipc.open_file(source) if is_file else arrow.ipc.open_stream(source)
        return reader.read_all()
    except arrow.ArrowException as error:
        raise DataError(f"{part.name}: is no Arrow file that can be read: {error}") from error
    except OSError as error:
        raise DataError(f"{part.name}: cannot be read: {error.strerror or error}") from error
