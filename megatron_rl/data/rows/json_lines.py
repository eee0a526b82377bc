"""JSON-lines rows: where each line begins is found once, lines are parsed when asked for."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from megatron_rl.data.jsonl import parse_record
from megatron_rl.data.rows.scratch import path_of
from megatron_rl.errors import DataError

_BLOCK = 1 << 24
_BLANKS = np.frombuffer(b" \t\r\n\x0b\x0c", dtype=np.uint8)


class JsonLines:
    """Non-blank lines of a file.

    The file is read, not memory-mapped: a file that shrinks gives an error then and not a crash.
    """

    def __init__(
        self,
        name: str,
        path: str,
        bounds_2N: np.ndarray,
        numbers_N: np.ndarray,
        unit: Literal["line", "element"],
        scratch: BinaryIO | None,
        first: int,
    ) -> None:
        """Open the lines of ``path``.

        Args:
            name: file, for messages.
            path: of the lines, which may be those of a scratch file.
            bounds_2N: [2, N] first byte of each line, and the byte after its last.
            numbers_N: [N] number of each in the file, from 1.
            unit: what is numbered.
            scratch: kept open for as long as the lines are.
            first: index of the first of these lines.
        """
        self._name = name
        self._path = path
        self._bounds_2N = bounds_2N
        self._numbers_N = numbers_N
        self._unit = unit
        self._scratch = scratch
        self._first = first
        # Closed with the rows.
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115

    def __reduce__(self) -> tuple[Any, ...]:
        """Let another process open the same file; it is not to outlive this one."""
        lines = (self._bounds_2N, self._numbers_N)
        return JsonLines, (self._name, self._path, *lines, self._unit, None, self._first)

    def part(self, start: int, stop: int) -> "JsonLines":
        """Return the same lines, of which only some may be asked for; see :class:`Rows`."""
        chosen = slice(start - self._first, stop - self._first)
        return JsonLines(
            self._name,
            self._path,
            self._bounds_2N[:, chosen],
            self._numbers_N[chosen],
            self._unit,
            self._scratch,
            start,
        )

    def __len__(self) -> int:
        """Return the number of lines that are not blank."""
        return len(self._numbers_N)

    def where(self, index: int) -> str:
        """Return file and line (or element of an array)."""
        number = int(self._numbers_N[index - self._first])
        return f"{self._name}:{number}" if self._unit == "line" else f"{self._name}: item {number}"

    def line(self, index: int) -> str:
        """Return the text of a line."""
        return next(self._lines(index, index + 1))

    def records(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Parse lines in order; DataError names file and line of one that is no JSON object."""
        for index, line in enumerate(self._lines(start, stop), start):
            yield parse_record(line, self.where(index))

    def _lines(self, start: int, stop: int) -> Iterator[str]:
        begins, ends = self._bounds_2N
        start, stop = start - self._first, stop - self._first
        while start < stop:
            # As many lines as fit in a block, and at least one.
            room = int(np.searchsorted(ends[start:stop], begins[start] + _BLOCK, side="right"))
            last = start + max(1, room)
            first_byte = int(begins[start])
            data = os.pread(self._file.fileno(), int(ends[last - 1]) - first_byte, first_byte)
            for index in range(start, last):
                line = data[int(begins[index]) - first_byte : int(ends[index]) - first_byte]
                try:
                    yield line.decode("utf-8")
                except UnicodeDecodeError as error:
                    where = self.where(index + self._first)
                    raise DataError(f"{where}: not UTF-8 text: {error}") from error
            start = last


def open_lines(
    name: Path, file: BinaryIO, *, path: str | None, unit: Literal["line", "element"]
) -> JsonLines:
    """Find the lines of an open file.

    Args:
        name: file, for messages.
        file: at any position; kept open if it has no ``path``.
        path: of the file, None for a scratch file.
        unit: what a line is called in messages.

    Raises:
        DataError: there is no line that is not blank.
    """
    bounds_2N, numbers_N = _find_lines(file.fileno(), os.fstat(file.fileno()).st_size)
    if not len(numbers_N):
        raise DataError(f"{name}: empty; expected one JSON object per line")
    place, scratch = (path_of(file), file) if path is None else (path, None)
    return JsonLines(str(name), place, bounds_2N, numbers_N, unit, scratch, 0)


def _find_lines(descriptor: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds [2, N] of all lines that are not blank, and their numbers [N]."""
    breaks = []
    for offset in range(0, size, _BLOCK):
        block = np.frombuffer(os.pread(descriptor, _BLOCK, offset), dtype=np.uint8)
        breaks.append(np.flatnonzero(block == ord("\n")) + offset)
    ends = np.concatenate([*breaks, [size]]).astype(np.int64)
    begins = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
    is_blank = begins >= ends
    for index in _begin_with_blank(descriptor, begins, is_blank):
        line = os.pread(descriptor, int(ends[index] - begins[index]), int(begins[index]))
        is_blank[index] = not line.strip()
    kept = ~is_blank
    return np.stack([begins[kept], ends[kept]]), np.flatnonzero(kept) + 1


def _begin_with_blank(descriptor: int, begins: np.ndarray, is_empty: np.ndarray) -> np.ndarray:
    """Return the indices of lines whose first character is blank."""
    found = []
    lines = np.flatnonzero(~is_empty)
    positions = begins[lines]
    block_of = positions // _BLOCK
    for number in np.unique(block_of):
        low, high = np.searchsorted(block_of, [number, number + 1])
        block = np.frombuffer(os.pread(descriptor, _BLOCK, int(number) * _BLOCK), dtype=np.uint8)
        first = block[positions[low:high] - number * _BLOCK]
        found.append(lines[low:high][np.isin(first, _BLANKS)])
    return np.concatenate([np.empty(0, dtype=np.int64), *found])
