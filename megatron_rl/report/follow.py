"""Follow a JSON-lines file that another program appends to."""

import json
import os
from pathlib import Path
from typing import Any

_MARK_BYTES = 64


class JsonlFollower:
    """Reads what was appended since the last call.

    When the file was replaced or cut, as a resuming run does, reading starts over, and
    ``num_starts`` grows.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = -1
        self._offset = 0
        self._mark = b""  # what lies before the offset
        self.num_starts = 0

    def read_new(self) -> list[dict[str, Any]]:
        """Return the complete lines since the last call; none while the file is missing."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            if self._inode != -1:
                self._start_over(-1)
            return []
        with file:
            status = os.fstat(file.fileno())
            file.seek(self._offset - len(self._mark))
            # A network file system gives the inode of a removed file to the next one.
            is_same = file.read(len(self._mark)) == self._mark and status.st_ino == self._inode
            if not is_same:
                self._start_over(status.st_ino)
                file.seek(0)
            complete, newline, _ = _written(file.read()).rpartition(b"\n")
        whole = complete + newline
        self._offset += len(whole)
        self._mark = (self._mark + whole)[-_MARK_BYTES:]
        return [json.loads(line) for line in complete.splitlines()]

    def _start_over(self, inode: int) -> None:
        self._inode, self._offset, self._mark = inode, 0, b""
        self.num_starts += 1


class GrowingRecords:
    """All records of a JSON-lines file, kept up to date."""

    def __init__(self, path: Path) -> None:
        self._follower = JsonlFollower(path)
        self._num_starts = 0
        self.records: list[dict[str, Any]] = []

    def refresh(self) -> bool:
        """Read what is new; return whether anything is different."""
        new = self._follower.read_new()
        has_started_over = self._follower.num_starts != self._num_starts
        if has_started_over:
            self._num_starts = self._follower.num_starts
            self.records = []
        self.records += new
        return has_started_over or len(new) > 0


def _written(text: bytes) -> bytes:
    """Cut what has a size but no contents yet: another machine's write, seen half."""
    return text.partition(b"\0")[0]
