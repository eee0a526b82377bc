"""Curves of several seeds over a common axis: their mean, and the lowest and highest of them. Pure.

Seeds do not meet the same number of prompts or tokens at a step, and are evaluated at versions of
their own. Over such an axis seeds are interpolated linearly at the points of the one that ends
first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from megatron_rl.report.figures import MIN_POINTS_TO_SMOOTH, smooth
from megatron_rl.report.scores import latest_evaluations
from megatron_rl.report.summary import Record, is_number, sampled_version, values_of

Axis = Literal["steps", "prompts", "tokens"]
AXES: dict[Axis, str] = {
    "steps": "steps",
    "prompts": "prompts sampled, dropped ones included",
    "tokens": "tokens trained on",
}
"""Axes of the report, with their titles."""
_COUNTED: dict[Axis, str | None] = {
    "steps": None,
    "prompts": "rollout/started_groups",
    "tokens": "rollout/trained_tokens",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """Values of one seed; ``x`` grows."""

    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Band:
    """Mean over seeds at each point, with the lowest and the highest of them."""

    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    num_seeds: int


def step_places(steps: Sequence[Record], axis: Axis) -> Curve | None:
    """Return where each step ends on the axis, from step 0; None where a step did not count it.

    Args:
        steps: records of metrics.jsonl, each step once, in order.
        axis: what is counted.
    """
    numbers = [0.0, *(float(record["step"]) for record in steps)]
    counted = _COUNTED[axis]
    if counted is None:
        return Curve(x=numbers, y=numbers)
    if not all(is_number(record, counted) for record in steps):
        return None
    return Curve(x=numbers, y=[0.0, *np.cumsum(values_of(steps, counted)).tolist()])


def metric_curve(steps: Sequence[Record], metric: str, axis: Axis) -> Curve | None:
    """Return a metric over the axis, smoothed as in a run's own report; None without numbers."""
    places = step_places(steps, axis)
    usable = [record for record in steps if is_number(record, metric)]
    if places is None or not usable:
        return None
    raw = values_of(usable, metric)
    if len(raw) >= MIN_POINTS_TO_SMOOTH:
        raw = smooth(raw, half_width=min(25, 1 + len(raw) // 40))
    x = np.interp([record["step"] for record in usable], places.x, places.y)
    return Curve(x=x.tolist(), y=raw)


def score_curve(
    evaluations: Sequence[Record], steps: Sequence[Record], score: str, axis: Axis
) -> Curve | None:
    """Return a held-out score over the axis; None without numbers.

    An evaluation stands where the policy was that sampled it, on average: training goes on
    meanwhile.
    """
    places = step_places(steps, axis)
    usable = [r for r in latest_evaluations(evaluations) if is_number(r, score)]
    if places is None or not usable:
        return None
    usable.sort(key=sampled_version)
    x = np.interp([sampled_version(record) for record in usable], places.x, places.y)
    return Curve(x=x.tolist(), y=values_of(usable, score))


def over_seeds(curves: Sequence[Curve]) -> Band | None:
    """Return the mean over seeds with the lowest and the highest, where all of them have values.

    A mean over other seeds here than there would jump between the two; so a curve ends where the
    first seed ends. None where no point is common to all.
    """
    if not curves:
        return None
    first = max(curve.x[0] for curve in curves)
    shortest = min(curves, key=lambda curve: curve.x[-1])
    grid = [x for x in shortest.x if x >= first]
    if not grid:
        return None
    values_SX = np.stack([np.interp(grid, curve.x, curve.y) for curve in curves])
    return Band(
        x=grid,
        mean=values_SX.mean(axis=0).tolist(),
        low=values_SX.min(axis=0).tolist(),
        high=values_SX.max(axis=0).tolist(),
        num_seeds=len(curves),
    )
