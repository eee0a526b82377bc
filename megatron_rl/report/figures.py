"""Figures of the report: the shared style, lines, bars and smoothing. Pure.

Text, grid and background colours and the legend are left to the page, which knows its theme
and its width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import plotly.graph_objects as go

from megatron_rl.report.downsample import kept_indices
from megatron_rl.report.summary import Record, is_number, values_of

BLUE, AMBER, GREEN, RED = "#4f83cc", "#d9923b", "#4a9e6b", "#cf5f5f"
PURPLE, TEAL, GREY = "#8d74c4", "#379aa5", "#8b95a5"

MIN_POINTS_TO_SMOOTH = 20


@dataclass(frozen=True, kw_only=True)
class Line:
    """A metric with its label and style."""

    metric: str
    label: str
    color: str
    dash: str = "solid"


@dataclass(frozen=True, kw_only=True)
class LinePlot:
    """A plot of metrics over steps, as lines."""

    key: str
    title: str
    caption: str
    lines: tuple[Line, ...]
    tick_format: str = ""


def new_figure(*, x_title: str, tick_format: str) -> go.Figure:
    """Return an empty figure with the shared style."""
    axis = {"zeroline": False, "automargin": True, "showline": False}
    figure = go.Figure()
    figure.update_layout(
        template=go.layout.Template(),
        height=280,
        margin={"l": 48, "r": 12, "t": 12, "b": 36},
        hovermode="x unified",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        showlegend=False,
        xaxis={
            **axis,
            "title": {"text": x_title, "standoff": 6, "font": {"size": 12}},
            "showgrid": False,
        },
        yaxis={**axis, "tickformat": tick_format, "nticks": 6},
    )
    return figure


def add_bands(figure: go.Figure, ends: Sequence[Record]) -> None:
    """Shade every second stage, and name each at its first step.

    Args:
        figure: with steps or policy versions along its horizontal axis.
        ends: the run's stages that are over, with ``name``, ``first_step`` and ``end``; what comes
            after the last of them has no shade.
    """
    for number, stage in enumerate(ends):
        place = {"x0": stage["first_step"], "x1": stage["end"], "layer": "below", "line_width": 0}
        shade = "rgba(128,128,128,0.10)" if number % 2 else "rgba(0,0,0,0)"
        text = {
            "annotation_text": stage["name"],
            "annotation_position": "top left",
            "annotation_font": {"size": 10, "color": GREY},
        }
        figure.add_vrect(fillcolor=shade, **place, **text)


def add_line(figure: go.Figure, line: Line, steps: Sequence[Record], *, tick_format: str) -> None:
    """Draw one metric over ``step``, if any record has it.

    Many points become a faint raw line under their rolling mean; the hover text tells the raw
    number. Of very many, those are drawn that show every extreme.
    """
    usable = [record for record in steps if is_number(record, line.metric)]
    if not usable:
        return
    x = [record["step"] for record in usable]
    raw = values_of(usable, line.metric)
    style = {"color": line.color, "width": 2, "dash": line.dash}
    number_format = tick_format if tick_format.endswith("%") else ".4~g"
    is_smooth = len(raw) >= MIN_POINTS_TO_SMOOTH
    shown = smooth(raw, half_width=min(25, 1 + len(raw) // 40)) if is_smooth else raw
    kept = kept_indices(x, raw)
    x = [x[i] for i in kept]
    raw, shown = ([_rounded(values[i]) for i in kept] for values in (raw, shown))
    if is_smooth:
        figure.add_scatter(
            x=x,
            y=raw,
            mode="lines",
            line={**style, "width": 1},
            opacity=0.35,
            hoverinfo="skip",
            legendgroup=line.label,
        )
    figure.add_scatter(
        x=x,
        y=shown,
        customdata=raw,
        name=line.label,
        legendgroup=line.label,
        mode="lines" if len(x) > 1 else "markers",
        line=style,
        hovertemplate=f"%{{customdata:{number_format}}}",
    )


def add_bars(
    figure: go.Figure, x: Sequence[float], y: Sequence[float], *, label: str, color: str
) -> None:
    """Add one layer of stacked bars, in seconds."""
    figure.add_bar(
        x=x,
        y=y,
        name=label,
        legendgroup=label,
        hovertemplate="%{y:.2f} s",
        marker={"color": color, "line": {"width": 0}},
    )


def smooth(values: Sequence[float], *, half_width: int) -> list[float]:
    """Centred rolling mean over ``2 * half_width + 1`` values, or those there are at the ends."""
    window = np.ones(2 * half_width + 1)
    middle = slice(half_width, half_width + len(values))
    sums = np.convolve(values, window)[middle]
    return (sums / np.convolve(np.ones(len(values)), window)[middle]).tolist()


def _rounded(value: float) -> float:
    """Drop the digits that nobody can see, which are most of the page."""
    return float(f"{value:.6g}")


def bin_means(values: Sequence[float], *, max_bins: int) -> list[float]:
    """Average neighbours so that at most ``max_bins`` values are left."""
    width = -(-len(values) // max_bins)
    return [fmean(values[i : i + width]) for i in range(0, len(values), width)] if values else []
