"""Logs of a run's programs: which there are, and the last lines of one, without keys."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

TAIL_LINES = 200
_TAIL_BYTES = 128 << 10
_MAX_LOGS = 200
_BLOTTED = "<api key>"
_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def log_sizes(folder: Path) -> dict[str, int]:
    """Return the size of each log by its path below ``folder``, the latest written first.

    Those that were not written for longest are left out where there are very many.
    """
    found = []
    for where, _, names in os.walk(folder):
        for name in names:
            path = Path(where, name)
            try:
                status = path.stat()
            except OSError:  # removed meanwhile
                continue
            found.append((status.st_mtime, str(path.relative_to(folder)), status.st_size))
    newest = sorted(found, reverse=True)[:_MAX_LOGS]
    return {name: size for _, name, size in sorted(newest, key=lambda entry: entry[1])}


def tail(path: Path, *, secrets: Iterable[str], num_lines: int = TAIL_LINES) -> str:
    """Return the last lines of a log as a terminal would leave them, with secrets blotted out."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - _TAIL_BYTES)
        file.seek(start)
        text = file.read(_TAIL_BYTES).decode(errors="replace")
    if start > 0:
        text = text.partition("\n")[2]  # a line cut in two could hold half a key
    for secret in secrets:
        text = text.replace(secret, _BLOTTED)
    # A progress bar writes its line again and again.
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
    return _ESCAPE_SEQUENCE.sub("", "\n".join(lines[-num_lines - 1 :]))
