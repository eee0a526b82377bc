"""Problem file: the rows of a file, and which of their columns hold what."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megatron_rl.config.columns import ColumnNames
from megatron_rl.data.fields import UnusableRowError
from megatron_rl.data.problems import ProblemRow, read_problem
from megatron_rl.data.rows import Rows, open_rows
from megatron_rl.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class ProblemFile:
    """Rows of a file that are read as problems."""

    path: Path
    rows: Rows
    names: ColumnNames

    def problem_rows(
        self, start: int, stop: int
    ) -> Iterator[tuple[int, ProblemRow | UnusableRowError]]:
        """Yield the rows that have an answer, or the error of one that cannot be used.

        Raises:
            DataError: a record is malformed.
        """
        records = self.rows.records(start, stop)
        for index, record in enumerate(records, start):
            try:
                row = read_problem(record, self.rows.where(index), self.names)
            except UnusableRowError as error:
                yield index, error
                continue
            if row is not None:
                yield index, row

    def row(self, index: int) -> ProblemRow:
        """Return a row that is known to hold a problem."""
        (record,) = self.rows.records(index, index + 1)
        row = read_problem(record, self.rows.where(index), self.names)
        assert row is not None, f"{self.rows.where(index)} has no answer"
        return row

    def part(self, start: int, stop: int) -> "ProblemFile":
        """Return the file, of which only some rows may be asked for."""
        return ProblemFile(path=self.path, rows=self.rows.part(start, stop), names=self.names)


def open_problem_file(path: Path, names: ColumnNames) -> ProblemFile:
    """Open the columns that are needed; DataError says why a file cannot be read."""
    rows = open_rows(path, columns=names.top_level)
    return ProblemFile(path=path, rows=rows, names=names)


def chosen_rows(text: str | None, num_rows: int, *, key: str) -> range:
    """Return the rows that a setting START:END chooses, as a slice of Python does.

    Raises:
        ConfigError: there is none; names ``key``.
    """
    if text is None:
        return range(num_rows)
    start, stop = (int(part) if part else None for part in text.split(":"))
    chosen = range(num_rows)[start:stop]
    if not chosen:
        raise ConfigError(f'{key} ("{text}") must leave rows over; the file has {num_rows}')
    return chosen
