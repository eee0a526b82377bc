"""Weight-space map of a run: reward and length over two directions, and the law of length."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from megatron_rl.algorithm.weight_space import Directions, LengthLaw, fit_length_law
from megatron_rl.report.figures import BLUE, GREY, RED
from megatron_rl.report.summary import Record
from megatron_rl.run_dir import publish_atomically

_PANELS = ("reward", "length")


def write_weight_map(
    path: Path, steps: Sequence[int], directions: Directions, points: Sequence[Record]
) -> None:
    """Write the page, whole or not at all; reading it needs no network.

    Args:
        path: where the HTML file goes.
        steps: of the checkpoints whose trajectory is drawn.
        directions: the plane.
        points: records of points.jsonl.
    """
    figure = weight_map(steps, directions, points)
    publish_atomically(path, figure.to_html(include_plotlyjs=True).encode())


def weight_map(steps: Sequence[int], directions: Directions, points: Sequence[Record]) -> go.Figure:
    """Draw mean reward, mean length and, point by point, reward over the logarithm of length."""
    law = fit_length_law(_column(points, "length"), _column(points, "reward_without_length"))
    figure = make_subplots(
        rows=1,
        cols=3,
        subplot_titles=("mean reward", "mean length, tokens", _title_of(law)),
        horizontal_spacing=0.09,
    )
    for column, metric in enumerate(_PANELS, 1):
        _add_surface(figure, points, metric, column)
        _add_trajectory(figure, steps, directions, column)
    _add_law(figure, points, law)
    for column in (1, 2):
        first, second = (f"direction {i + 1} ({directions.shares_2[i]:.0%})" for i in range(2))
        figure.update_xaxes(title_text=first, row=1, col=column)
        figure.update_yaxes(title_text=second, row=1, col=column)
    figure.update_xaxes(title_text="mean length, tokens", type="log", row=1, col=3)
    figure.update_yaxes(title_text="reward without length penalty", row=1, col=3)
    figure.update_layout(height=520, showlegend=False, title_text="Weight space of the run")
    return figure


def _add_surface(figure: go.Figure, points: Sequence[Record], metric: str, column: int) -> None:
    figure.add_trace(
        go.Contour(
            x=_column(points, "along_1"),
            y=_column(points, "along_2"),
            z=_column(points, metric),
            colorscale="Viridis",
            connectgaps=True,
            contours={"coloring": "heatmap"},
            colorbar={"x": 0.27 if column == 1 else 0.635, "thickness": 10, "len": 0.9},
            hovertemplate="%{x:.3g}, %{y:.3g}: %{z:.3g}<extra></extra>",
        ),
        row=1,
        col=column,
    )


def _add_trajectory(
    figure: go.Figure, steps: Sequence[int], directions: Directions, column: int
) -> None:
    figure.add_trace(
        go.Scatter(
            x=directions.positions_T2[:, 0],
            y=directions.positions_T2[:, 1],
            mode="lines+markers",
            line={"color": RED, "width": 2},
            marker={"size": 6},
            text=[f"step {step}" for step in steps],
            hovertemplate="%{text}<extra></extra>",
        ),
        row=1,
        col=column,
    )


def _add_law(figure: go.Figure, points: Sequence[Record], law: LengthLaw | None) -> None:
    lengths = _column(points, "length")
    figure.add_trace(
        go.Scatter(
            x=lengths,
            y=_column(points, "reward_without_length"),
            mode="markers",
            marker={"color": BLUE, "size": 7},
            hovertemplate="%{x:.4g} tokens: %{y:.3g}<extra></extra>",
        ),
        row=1,
        col=3,
    )
    if law is None:
        return
    ends = np.array([lengths.min(), lengths.max()])
    figure.add_trace(
        go.Scatter(
            x=ends,
            y=law.slope * np.log(ends) + law.offset,
            mode="lines",
            line={"color": GREY, "dash": "dash"},
        ),
        row=1,
        col=3,
    )


def _title_of(law: LengthLaw | None) -> str:
    if law is None:
        return "reward over length"
    return f"{law.slope:.3g} log(length) + {law.offset:.3g}, R² = {law.r_squared:.2f}"


def _column(points: Sequence[Record], key: str) -> Any:
    return np.array([point[key] for point in points], dtype=float)
