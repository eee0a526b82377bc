"""Finding of ``doctor``: one fact about the machine, with the remedy where it is no good one."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One fact about the machine."""

    name: str
    value: str
    remedy: str = ""
    """What to do about it; empty when all is well."""
    is_fatal: bool = False
    """No run can work before the remedy is applied."""
