"""Scratch file without a name, which vanishes with the process however that ends.

It holds what has to be decompressed, or taken out of Parquet, before rows can be read in any order.
It lies in TMPDIR.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from megatron_rl.errors import DataError


def open_scratch() -> BinaryIO:
    """Return an empty file that has no name."""
    # Not a "with": it lives as long as the rows that are read from it.
    return tempfile.TemporaryFile(prefix="megatron-rl-rows-")


def path_of(file: BinaryIO) -> str:
    """Return a path by which this process and its children reach a file without a name."""
    return f"/proc/{os.getpid()}/fd/{file.fileno()}"


@contextlib.contextmanager
def naming_full_disks(source: Path) -> Iterator[None]:
    """Raise DataError where the scratch file of ``source`` cannot be written."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{source}: cannot be unpacked into {tempfile.gettempdir()}: "
            f"{error.strerror or error}; name a folder with room in the variable TMPDIR"
        ) from error
