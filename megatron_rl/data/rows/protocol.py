"""Protocol of the rows of a problem file."""

from collections.abc import Iterator
from typing import Any, Protocol


class Rows(Protocol):
    """Records of a file by number, of which few are in memory. Picklable: workers read them too."""

    def __len__(self) -> int:
        """Return the number of records."""
        ...

    def records(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Yield the records ``start`` to ``stop - 1``; DataError names one that is malformed."""
        ...

    def where(self, index: int) -> str:
        """Return file and line, or file, row group and row, for messages."""
        ...

    def part(self, start: int, stop: int) -> "Rows":
        """Return the rows, of which only ``start`` to ``stop - 1`` may be asked for.

        They keep their numbers, and are small to send to another process.
        """
        ...

    def line(self, index: int) -> str:
        """Return the record as one line of JSON, the very text where the file has such lines."""
        ...
