"""Plot of speed and memory over the context length, as an SVG."""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

from svg import Point, box, document, text

Row = Mapping[str, Any]
_WIDTH, _HEIGHT = 960, 400
_TOP, _BOTTOM, _PANEL = 92.0, 330.0, 372.0
_TINTS = ("#4f83cc", "#d9923b", "#4a9e6b", "#8d74c4", "#cf5f5f", "#379aa5")


@dataclass(frozen=True, kw_only=True)
class _Curve:
    """Points of one layout, and how its line is drawn."""

    points: Sequence[Point]
    tint: str
    dash: str = ""


def draw(rows: Sequence[Row]) -> str:
    """Return the picture: tokens per second, and peak memory with the planner's as broken lines."""
    layouts = sorted({row["layout"] for row in rows})
    tints = dict(zip(layouts, _TINTS * len(layouts), strict=False))

    def curves(name: str, dash: str = "") -> list[_Curve]:
        return [
            _Curve(
                points=[
                    (row["length"], row[name])
                    for row in rows
                    if row["layout"] == layout and name in row
                ],
                tint=tints[layout],
                dash=dash,
            )
            for layout in layouts
        ]

    memory = curves("measured MiB") + curves("estimated MiB", dash="6 4")
    parts = [
        text((24, 40), "Long contexts", size=20, style="ink bold"),
        *_panel(24, "learner, tokens/s", curves("tokens/s")),
        *_panel(492, "memory of a rank, MiB; planner's estimate broken", memory),
        *_legend(tints),
    ]
    return document(_WIDTH, _HEIGHT, title="Speed and memory over context length", parts=parts)


def _legend(tints: Mapping[str, str]) -> Iterator[str]:
    for number, (layout, tint) in enumerate(tints.items()):
        x = 24 + number * 190
        yield f'<rect x="{x}" y="378" width="14" height="4" fill="{tint}"/>'
        yield text((x + 20, 384), layout, size=12, style="muted")


def _panel(left: float, title: str, curves: Sequence[_Curve]) -> Iterator[str]:
    """Draw curves over a logarithmic context, each value on a logarithmic axis as well."""
    yield text((left, 72), title, size=13, style="muted")
    yield box((left, _TOP - 8), _PANEL + 72, _BOTTOM - _TOP + 40, style="card")
    points = [point for curve in curves for point in curve.points]
    if not points:
        yield text((left + 20, 200), "only estimated here", size=12, style="muted")
        return
    across = _axis([x for x, _ in points], base=2, start=left + 60, end=left + 60 + _PANEL - 8)
    up = _axis([y for _, y in points], base=10, start=_BOTTOM - 10, end=_TOP + 14)
    for value in _ticks([y for _, y in points], base=10):
        yield (
            f'<path class="grid" d="M{left + 56:g} {up(value):g} {left + _PANEL + 56:g} '
            f'{up(value):g}"/>'
        )
        yield text((left + 50, up(value) + 4), f"{value:,.0f}", size=11, style="muted end")
    for value in sorted({x for x, _ in points}):
        yield text((across(value), _BOTTOM + 18), _short(value), size=11, style="muted middle")
    for curve in curves:
        yield from _line(curve, across, up)


def _line(
    curve: _Curve, across: Callable[[float], float], up: Callable[[float], float]
) -> Iterator[str]:
    if not curve.points:
        return
    path = " ".join(f"{across(x):.1f} {up(y):.1f}" for x, y in curve.points)
    dash = f' stroke-dasharray="{curve.dash}"' if curve.dash else ""
    yield f'<path class="line" d="M{path}" stroke="{curve.tint}" stroke-width="2"{dash}/>'
    for x, y in curve.points:
        yield f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3" fill="{curve.tint}"/>'


def _axis(
    values: Sequence[float], *, base: int, start: float, end: float
) -> Callable[[float], float]:
    ticks = _ticks(values, base=base)
    low, high = math.log(min(ticks)), math.log(max(ticks))
    width = high - low or 1.0
    return lambda value: start + (math.log(value) - low) / width * (end - start)


def _ticks(values: Sequence[float], *, base: int) -> list[float]:
    """Return the powers of a base from below the least value to above the largest."""
    low = math.floor(math.log(min(values), base) + 1e-9)
    high = math.ceil(math.log(max(values), base) - 1e-9)
    return [float(base) ** power for power in range(low, max(high, low + 1) + 1)]


def _short(tokens: float) -> str:
    return f"{tokens / 1024:g}k" if tokens >= 1024 else f"{tokens:g}"
