"""Byte streams of plain and compressed files (.gz, .zst)."""

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from megatron_rl.data.rows.arrow_package import arrow_package
from megatron_rl.errors import DataError

COMPRESSED = (".gz", ".zst")


@contextlib.contextmanager
def open_stream(path: Path) -> Iterator[BinaryIO]:
    """Yield the bytes of ``path``, decompressed where its name ends in .gz or .zst.

    Raises:
        DataError: the file cannot be read, or is not what its name says.
    """
    try:
        with path.open("rb") as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile(fileobj=raw) as stream:
                    yield stream  # type: ignore[misc]
            elif path.suffix == ".zst":
                arrow = arrow_package(path)
                # Arrow's streams cannot peek, which text needs.
                yield io.BufferedReader(arrow.CompressedInputStream(raw, "zstd"))
            else:
                yield raw
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path}: cannot be decompressed: {error}") from error
    except OSError as error:
        said = error.strerror or str(error)  # errors of zstd come without a number
        raise DataError(f"{path}: cannot be read: {said}") from error
