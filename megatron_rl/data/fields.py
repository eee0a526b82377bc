"""Fields of a record: found by a name that may lead into nested ones, checked, named in errors."""

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from megatron_rl.errors import DataError

MISSING: Any = object()
"""Value of a field that is not there."""


class UnusableRowError(DataError):
    """A row without question or answer, in a file that is well-formed otherwise."""


def find_field(record: Mapping[str, Any], name: str | None) -> Any:
    """Return the value of ``name``, such as "reward_model.ground_truth"; MISSING if there is none.

    A nested field may be the JSON text of an object.
    """
    if name is None:
        return MISSING
    if name in record:
        return record[name]
    value: Any = record
    for part in name.split("."):
        if isinstance(value, str) and value.lstrip().startswith("{"):
            value = json_value(value)
        if not isinstance(value, Mapping) or part not in value:
            return MISSING
        value = value[part]
    return value


def text_of(value: Any, name: str, where: str, *, takes_numbers: bool) -> str:
    """Return a text that is not blank, or a number as text.

    Raises:
        UnusableRowError: it is blank or null.
        DataError: it is neither text nor, with ``takes_numbers``, a number.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if takes_numbers and is_number:
        return str(value)
    if value is None:
        raise UnusableRowError(f'{where}: field "{name}" must be text, got NoneType')
    if not isinstance(value, str):
        raise DataError(f'{where}: field "{name}" must be text, got {type(value).__name__}')
    if not value.strip():
        raise UnusableRowError(f'{where}: field "{name}" is blank')
    return value


def missing_field(
    record: Mapping[str, Any], name: str, where: str, *, setting: str | None
) -> UnusableRowError:
    """Return the error of a field that is not there; says what is, and what is nearest.

    Args:
        record: what was found.
        name: the field that was looked for.
        where: file and line.
        setting: key of data.columns that names the field, None for the package's own form.
    """
    here = ", ".join(record) or "none"
    text = f'{where}: missing field "{name}"'
    if setting is not None:
        text += f" (data.columns.{setting})"
    text += f"; found {here}"
    nearest = difflib.get_close_matches(name, list(_names_in(record)), n=1, cutoff=0.5)
    if setting is not None and nearest:
        text += f'; nearest: "{nearest[0]}"'
    return UnusableRowError(text)


def json_value(text: str) -> Any:
    """Return the value of a JSON text, the text itself where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _names_in(record: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in record.items():
        yield prefix + name
        if isinstance(value, Mapping):
            yield from _names_in(value, f"{prefix}{name}.")
