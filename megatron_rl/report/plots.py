"""Plots of the report. Pure: records in, plotly figures out."""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from megatron_rl.report.figures import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    RED,
    TEAL,
    Line,
    LinePlot,
    add_bands,
    add_bars,
    add_line,
    bin_means,
    new_figure,
)
from megatron_rl.report.scores import (
    INTERVAL,
    Record,
    latest_evaluations,
    of_set,
    parts_of,
    sets_in,
)
from megatron_rl.report.source_plots import source_plots
from megatron_rl.report.summary import is_number, latest_by, sampled_version, values_of

MAX_BARS = 300
"""Bars are averaged to at most this many; a browser draws each as its own element."""
_MOST_PARTS = 8
"""Parts of a set whose curves are drawn; the table has all of them."""
_PART_COLORS = (PURPLE, TEAL, RED, GREY)


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One card of the page."""

    key: str
    """Identifier of the plot's HTML element."""
    title: str
    caption: str
    figure: go.Figure

    def as_json(self) -> dict[str, Any]:
        """Return the figure as plain JSON."""
        plain: dict[str, Any] = json.loads(self.figure.to_json())
        return plain


_REWARD = LinePlot(
    key="reward",
    title="Reward",
    caption="mean over the batch, and its parts",
    lines=(
        Line(metric="reward/total", label="total", color=BLUE),
        Line(metric="reward/correctness", label="correctness", color=GREEN),
        Line(metric="reward/format", label="format", color=PURPLE),
        Line(metric="reward/language", label="language", color=TEAL),
        Line(metric="reward/length", label="length", color=RED),
    ),
)

_POLICY_AND_ROLLOUT = (
    LinePlot(
        key="length",
        title="Completion length",
        caption="tokens per completion",
        lines=(
            Line(metric="rollout/length_mean", label="mean", color=BLUE),
            Line(metric="rollout/length_max", label="longest", color=GREY),
        ),
        tick_format=",",
    ),
    LinePlot(
        key="entropy",
        title="Entropy",
        caption="of the policy, nats per token",
        lines=(Line(metric="policy/entropy", label="entropy", color=TEAL),),
    ),
    LinePlot(
        key="clip_fraction",
        title="Clip fraction",
        caption="share of the loss weight on clipped tokens",
        lines=(Line(metric="policy/clip_fraction", label="clipped", color=AMBER),),
        tick_format=".2~%",
    ),
    LinePlot(
        key="grad_norm",
        title="Gradient norm",
        caption="before clipping",
        lines=(Line(metric="policy/grad_norm", label="gradient norm", color=PURPLE),),
    ),
    LinePlot(
        key="staleness",
        title="Staleness",
        caption="policy versions between sampling and training",
        lines=(
            Line(metric="rollout/staleness_mean", label="mean", color=BLUE),
            Line(metric="rollout/staleness_max", label="largest", color=GREY),
        ),
    ),
)

_CURRICULUM = LinePlot(
    key="curriculum",
    title="Problems",
    caption="where they stand: given out, solved for good, set aside, not called yet",
    lines=(
        Line(metric="curriculum/active", label="active", color=BLUE),
        Line(metric="curriculum/solved", label="solved", color=GREEN),
        Line(metric="curriculum/deferred", label="deferred", color=AMBER),
        Line(metric="curriculum/reserve", label="reserve", color=GREY),
    ),
    tick_format=",",
)

_THROUGHPUT = LinePlot(
    key="throughput",
    title="Throughput",
    caption="tokens per second",
    lines=(
        Line(metric="generation/tokens_per_s", label="generation", color=BLUE),
        Line(metric="learner/tokens_per_s", label="learner", color=AMBER),
    ),
    tick_format="~s",
)

_BUSY = LinePlot(
    key="fractions",
    title="Shares",
    caption="busy time; spanning, truncated completions; padding",
    lines=(
        Line(metric="generation/busy_fraction", label="busy", color=GREEN),
        Line(metric="rollout/spanning_fraction", label="spanning", color=PURPLE),
        Line(metric="rollout/truncated", label="truncated", color=RED),
        Line(metric="packing/waste", label="padding", color=GREY),
    ),
    tick_format=".0%",
)

_JUDGE = LinePlot(
    key="judge",
    title="Judge's queue",
    caption="completions that wait for a verifier",
    lines=(Line(metric="judge/queue", label="waiting", color=TEAL),),
    tick_format=",",
)

_SFT = LinePlot(
    key="sft_loss",
    title="Cold start",
    caption="loss of supervised fine-tuning, nats per token",
    lines=(Line(metric="sft/loss", label="loss", color=AMBER),),
)

# Pausing the generators is part of publishing, so it is a line over the bars, not a bar.
_STEP_PARTS = (
    Line(metric="time/update_s", label="update", color=BLUE),
    Line(metric="time/publish_s", label="publish", color=PURPLE),
    Line(metric="time/checkpoint_s", label="checkpoint", color=TEAL),
    Line(metric="time/wait_s", label="wait for batch", color=GREY),
)


def make_plots(
    *,
    metrics: Iterable[Record],
    evaluations: Iterable[Record],
    sft_metrics: Iterable[Record],
    stages: Sequence[Record] = (),
) -> list[Plot]:
    """Draw every plot that the records have numbers for, with a band for each of ``stages``."""
    steps = latest_by(metrics, "step")
    plots = [
        _line_plot(_REWARD, steps),
        *_evaluation_plots(latest_evaluations(evaluations), steps),
        *(_line_plot(spec, steps) for spec in _POLICY_AND_ROLLOUT),
        *(_line_plot(spec, steps) for spec in source_plots(steps)),
        _line_plot(_CURRICULUM, steps),
        _step_time_plot(steps),
        _line_plot(_THROUGHPUT, steps),
        _line_plot(_BUSY, steps),
        _line_plot(_JUDGE, steps),
    ]
    for plot in plots:
        add_bands(plot.figure, stages if plot.figure.data else ())
    plots.append(
        _line_plot(_SFT, latest_by(sft_metrics, "step"), x_title="fine-tuning step"),
    )
    return [plot for plot in plots if plot.figure.data]


def _line_plot(spec: LinePlot, steps: Sequence[Record], *, x_title: str = "step") -> Plot:
    figure = new_figure(x_title=x_title, tick_format=spec.tick_format)
    for line in spec.lines:
        add_line(figure, line, steps, tick_format=spec.tick_format)
    return Plot(key=spec.key, title=spec.title, caption=spec.caption, figure=figure)


def _evaluation_plots(evaluations: Sequence[Record], steps: Sequence[Record]) -> Iterator[Plot]:
    """Yield a plot of each held-out set; the first has the training problems behind it."""
    for index, name in enumerate(sets_in(evaluations) or [None]):
        yield _evaluation_plot(
            of_set(evaluations, name), [] if index else steps, name=name, is_first=index == 0
        )


def _evaluation_plot(
    evaluations: Sequence[Record], steps: Sequence[Record], *, name: str | None, is_first: bool
) -> Plot:
    figure = new_figure(x_title="policy version", tick_format=".0%")
    training = Line(metric="rollout/correct", label="training problems", color=GREY)
    add_line(figure, training, steps, tick_format=".1%")
    lines = (
        Line(metric="pass@1", label="pass@1", color=BLUE),
        Line(metric="maj@k", label="maj@k", color=GREEN, dash="dot"),
        Line(metric="pass@k", label="pass@k", color=AMBER, dash="dot"),
    )
    # With one sample per problem the three scores are the same number.
    has_k = any(record["k"] > 1 for record in evaluations)
    for line in lines if has_k else lines[:1]:
        _add_scores(figure, line, evaluations)
    parts = sorted({part for record in evaluations for part in parts_of(record)})
    for part, color in zip(parts[:_MOST_PARTS], itertools.cycle(_PART_COLORS)):
        scores = [
            {"version": sampled_version(record), **parts_of(record)[part]}
            for record in evaluations
            if part in parts_of(record)
        ]
        line = Line(metric="pass@1", label=part.partition(" ")[2], color=color, dash="dash")
        _add_scores(figure, line, scores)
    figure.update_yaxes(rangemode="tozero")
    return Plot(
        key="evaluation" if is_first else f"evaluation-{name}",
        title="Held-out accuracy" if name is None else f"Held-out accuracy: {name}",
        caption="evaluations, with 95 % intervals"
        + (", and training problems behind them" if is_first else ""),
        figure=figure,
    )


def _add_scores(figure: go.Figure, line: Line, evaluations: Sequence[Record]) -> None:
    """Draw a score with its interval, if any record has it."""
    usable = [record for record in evaluations if is_number(record, line.metric)]
    if not usable:
        return
    error = f"{line.metric}_stderr"
    halves = [INTERVAL * r[error] if is_number(r, error) else 0.0 for r in usable]
    figure.add_scatter(
        x=[sampled_version(record) for record in usable],
        y=[record[line.metric] for record in usable],
        error_y={"array": halves, "color": line.color, "thickness": 1, "width": 3},
        mode="lines+markers",
        name=line.label,
        legendgroup=line.label,
        hovertemplate="%{y:.1%}",
        line={"color": line.color, "width": 2, "dash": line.dash},
        marker={"size": 7},
    )


def _step_time_plot(steps: Sequence[Record]) -> Plot:
    figure = new_figure(x_title="step", tick_format="")
    usable = [record for record in steps if is_number(record, "time/step_s")]
    x = bin_means([record["step"] for record in usable], max_bins=MAX_BARS)
    totals = bin_means(values_of(usable, "time/step_s"), max_bins=MAX_BARS)
    rest = totals
    for part in _STEP_PARTS:
        if not values_of(usable, part.metric):
            continue
        filled = [r[part.metric] if is_number(r, part.metric) else 0.0 for r in usable]
        y = bin_means(filled, max_bins=MAX_BARS)
        rest = [left - value for left, value in zip(rest, y, strict=True)]
        add_bars(figure, x, y, label=part.label, color=part.color)
    # Less than a hundredth is rounding and bookkeeping, not worth a colour.
    if figure.data and sum(rest) > 0.01 * sum(totals):
        add_bars(figure, x, [max(0.0, value) for value in rest], label="other", color=AMBER)
    pause = Line(metric="time/pause_s", label="generators paused", color=RED)
    add_line(figure, pause, usable, tick_format="")
    figure.update_layout(barmode="stack", bargap=0)
    figure.update_yaxes(rangemode="tozero")
    return Plot(
        key="step_time", title="Step time", caption="seconds of each learner step", figure=figure
    )
