"""HTTP fields between a judge server and its clients that have changed their names.

Each is written under its present and its former name and read under either, so that a run and a
judge server may be of different versions.
"""

from typing import Any

GRADING_FINGERPRINT = ("grading_fingerprint", "terms")
IS_RETRY = ("is_retry", "is_suspect")
IS_INFRASTRUCTURE_FAILURE = ("is_infrastructure_failure", "is_innocent")


def under_both_names(names: tuple[str, str], value: Any) -> dict[str, Any]:
    """Return the field as part of a JSON object."""
    return dict.fromkeys(names, value)


def read_field(record: Any, names: tuple[str, str]) -> Any:
    """Return the value of the field; KeyError or TypeError if ``record`` does not have it."""
    present, former = names
    return record[present if present in record else former]
