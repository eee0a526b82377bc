"""JSON-lines reader for files that people wrote: every complaint names file, line and field."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from megatron_rl.errors import DataError

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


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
        yield f"{path}:{number}", parse_record(line, f"{path}:{number}")


def text_field(record: Mapping[str, Any], name: str, where: str) -> str:
    """Return a required, non-blank text field, or raise DataError naming ``where`` and ``name``."""
    if name not in record:
        raise DataError(f'{where}: missing field "{name}"; found {", ".join(record) or "none"}')
    value = record[name]
    if not isinstance(value, str):
        raise DataError(f'{where}: field "{name}" must be text, got {type(value).__name__}')
    if not value.strip():
        raise DataError(f'{where}: field "{name}" is blank')
    return value


def parse_record(line: str, where: str) -> dict[str, Any]:
    """Return the JSON object of a line, or raise DataError naming ``where``."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # a number too long, lists too deep
        raise DataError(f"{where}: not JSON that can be read: {error}") from error
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected a JSON object, got {type(record).__name__}")
    # UTF-8 has no surrogates, so that only an escape can hold one; few lines have any that begins
    # like it, and looking for that is many times as fast.
    if ("\\ud" in line or "\\uD" in line) and _SURROGATE.search(line):
        _check_text(record, where, field="")
    return record


def _check_text(value: Any, where: str, *, field: str) -> None:
    """Raise DataError for half of a surrogate pair anywhere in a value, which is no text."""
    if isinstance(value, dict):
        for name, item in value.items():
            _check_text(name, where, field=field)
            _check_text(item, where, field=f"{field}.{name}" if field else name)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_text(item, where, field=f"{field}[{index}]")
    elif isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            half = f"\\u{ord(value[error.start]):04x}"
            what = f'field "{field}"' if field else "the name of a field"
            raise DataError(
                f"{where}: {what} has half of a surrogate pair ({half}) at character "
                f"{error.start + 1}, which is no text; write the whole character, or remove it"
            ) from error
