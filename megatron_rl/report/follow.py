"""Follow a JSON-lines file that another program appends to."""

import json
import os
from pathlib import Path
from typing import Any


class JsonlFollower:
    """Reads what was appended since the last call.

    When the file was replaced or cut, as a resuming run does, reading starts over.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = -1
        self._offset = 0

    def read_new(self) -> list[dict[str, Any]]:
        """Return the complete lines since the last call; none while the file is missing."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            self._start_over_if_replaced(file.fileno())
            file.seek(self._offset)
            complete, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(complete) + len(newline)
        return [json.loads(line) for line in complete.splitlines()]

    def _start_over_if_replaced(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if status.st_ino != self._inode or status.st_size < self._offset:
            self._inode, self._offset = status.st_ino, 0
