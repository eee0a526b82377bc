"""Result of a stage: measured figures with their tolerances, and how the stage ended."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["passed", "failed", "timed out", "skipped"]
BAD: tuple[Status, ...] = ("failed", "timed out")
"""Ends of a stage after which the whole check has failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """Tolerance of a figure, with the reason for its value in words."""

    reason: str
    at_least: float = -math.inf
    at_most: float = math.inf

    def allows(self, value: float) -> bool:
        """Return whether the value lies within; nan never does."""
        return self.at_least <= value <= self.at_most

    def __str__(self) -> str:
        if self.at_most == math.inf:
            return f"at least {short(self.at_least)}"
        if self.at_least == -math.inf:
            return f"at most {short(self.at_most)}"
        return f"{short(self.at_least)} to {short(self.at_most)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One measured number."""

    name: str
    value: float
    unit: str = ""
    limit: Limit | None = None
    """None for a number that is shown and decides nothing."""

    @property
    def holds(self) -> bool:
        """Whether it is within its tolerance."""
        return self.limit is None or self.limit.allows(self.value)

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.name} {short(self.value)}{unit}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a stage found."""

    figures: Sequence[Figure] = ()
    notes: Sequence[str] = ()
    """Facts without a number, a sentence each."""
    skipped: str = ""
    """Why it did not run; empty when it did."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageResult:
    """End of one stage."""

    name: str
    shows: str
    status: Status
    seconds: float
    limit_s: float
    reason: str = ""
    """Why it did not pass."""
    figures: Sequence[Figure] = ()
    notes: Sequence[str] = ()
    logs: Sequence[str] = ()
    """Of the stage and of the server that it used, below the folder of the results."""
    tail: str = ""
    """Last lines of the log of a stage that did not pass."""


def short(value: float) -> str:
    """Render a number for people."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def outcome_record(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome as plain JSON."""
    return {
        "figures": [figure_record(figure) for figure in outcome.figures],
        "notes": list(outcome.notes),
        "skipped": outcome.skipped,
    }


def read_outcome(record: Mapping[str, Any]) -> Outcome:
    """Return the outcome that :func:`outcome_record` made into JSON."""
    return Outcome(
        figures=[_read_figure(figure) for figure in record["figures"]],
        notes=record["notes"],
        skipped=record["skipped"],
    )


def result_record(result: StageResult) -> dict[str, Any]:
    """Return the result as plain JSON, without what a reader could not parse."""
    record = dataclasses.asdict(result)
    return {**record, "figures": [figure_record(figure) for figure in result.figures]}


def figure_record(figure: Figure) -> dict[str, Any]:
    """Return a figure as plain JSON; what is not finite is text, or absent as a bound."""
    limit = figure.limit
    return {
        "name": figure.name,
        "value": figure.value if math.isfinite(figure.value) else str(figure.value),
        "unit": figure.unit,
        "holds": figure.holds,
        "at_least": None if limit is None else _bound(limit.at_least),
        "at_most": None if limit is None else _bound(limit.at_most),
        "reason": "" if limit is None else limit.reason,
    }


def _bound(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _read_figure(record: Mapping[str, Any]) -> Figure:
    lower, upper = record["at_least"], record["at_most"]
    limit = None
    if lower is not None or upper is not None:
        limit = Limit(
            reason=record["reason"],
            at_least=-math.inf if lower is None else lower,
            at_most=math.inf if upper is None else upper,
        )
    return Figure(
        name=record["name"], value=float(record["value"]), unit=record["unit"], limit=limit
    )
