"""Package pyarrow, which is optional: Parquet, Arrow and zstd files need it."""

import importlib
from pathlib import Path
from typing import Any

from megatron_rl.errors import DataError


def arrow_package(path: Path) -> Any:
    """Return the module pyarrow; DataError says that ``path`` needs it."""
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise DataError(
            f'{path}: needs the package pyarrow to be read; pip install "megatron-rl[data]", or '
            '"pyarrow"'
        ) from error
