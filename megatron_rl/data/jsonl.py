"""JSON-lines reader for files that people wrote: every complaint names file, line and field."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_rl.errors import DataError


def read_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("file:line", record) of every non-blank line.

    Raises:
        DataError: the file cannot be read, holds no record, or a line is not a JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: {error}") from error
    # Not splitlines(): JSON strings may hold U+2028 and other separators it would break at.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise DataError(f"{path}: empty; expected one JSON object per line")
    for number, line in lines:
        yield f"{path}:{number}", _parse(line, f"{path}:{number}")


def text_field(record: dict[str, Any], name: str, where: str) -> str:
    """Return a required, non-blank text field, or raise DataError naming ``where`` and ``name``."""
    if name not in record:
        raise DataError(f'{where}: missing field "{name}"; found {", ".join(record) or "none"}')
    value = record[name]
    if not isinstance(value, str):
        raise DataError(f'{where}: field "{name}" must be text, got {type(value).__name__}')
    if not value.strip():
        raise DataError(f'{where}: field "{name}" is blank')
    return value


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected a JSON object, got {type(record).__name__}")
    return record
