"""Plots of an ablation: a line and a band for each variant, over each axis. Pure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from megatron_rl.report.ablation.curves import (
    AXES,
    Axis,
    Band,
    Curve,
    metric_curve,
    over_seeds,
    score_curve,
)
from megatron_rl.report.ablation.records import (
    RunRecords,
    VariantRecords,
    held_out_sets,
    score_title,
)
from megatron_rl.report.downsample import kept_indices
from megatron_rl.report.figures import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    RED,
    TEAL,
    new_figure,
)
from megatron_rl.report.plots import Plot
from megatron_rl.report.scores import of_set

_COLORS = (BLUE, AMBER, GREEN, RED, PURPLE, TEAL, GREY)
_DASHES = ("solid", "dash", "dot")
_BAND_OPACITY = 0.18


@dataclass(frozen=True, kw_only=True, slots=True)
class _Metric:
    key: str
    title: str
    caption: str
    metric: str
    tick_format: str = ""


_REWARD = _Metric(
    key="reward", title="Reward", caption="mean over the batch", metric="reward/total"
)
_OTHERS = (
    _Metric(
        key="correct",
        title="Right answers in training",
        caption="of everything sampled, dropped groups included",
        metric="rollout/correct",
        tick_format=".0%",
    ),
    _Metric(
        key="length",
        title="Completion length",
        caption="tokens per completion",
        metric="rollout/length_mean",
        tick_format=",",
    ),
    _Metric(
        key="entropy",
        title="Entropy",
        caption="of the policy, nats per token",
        metric="policy/entropy",
    ),
    _Metric(
        key="clip_fraction",
        title="Clip fraction",
        caption="share of the loss weight on clipped tokens",
        metric="policy/clip_fraction",
        tick_format=".2~%",
    ),
    _Metric(
        key="grad_norm",
        title="Gradient norm",
        caption="before clipping",
        metric="policy/grad_norm",
    ),
    _Metric(
        key="approx_kl",
        title="KL from the sampler",
        caption="k3 estimate, nats per token",
        metric="policy/approx_kl",
    ),
    _Metric(
        key="staleness",
        title="Staleness",
        caption="policy versions between sampling and training",
        metric="rollout/staleness_mean",
    ),
)


def make_ablation_plots(variants: Sequence[VariantRecords], axis: Axis) -> list[Plot]:
    """Draw every plot over one axis that some run has numbers for."""
    plots = [
        _plot(_REWARD, variants, axis, _reads(_REWARD.metric, axis)),
        *_score_plots(variants, axis),
        *(_plot(spec, variants, axis, _reads(spec.metric, axis)) for spec in _OTHERS),
    ]
    return [plot for plot in plots if plot.figure.data]


def _score_plots(variants: Sequence[VariantRecords], axis: Axis) -> Iterator[Plot]:
    for place, name in enumerate(held_out_sets(variants)):
        spec = _Metric(
            key=f"pass_at_1_{place}",
            title=score_title(name).capitalize() if name is None else score_title(name),
            caption="evaluations, where the policy was on average",
            metric="pass@1",
            tick_format=".0%",
        )
        yield _plot(spec, variants, axis, _reads_score(name, axis), mode="lines+markers")


def _reads(metric: str, axis: Axis) -> Callable[[RunRecords], Curve | None]:
    return lambda run: metric_curve(run.metrics, metric, axis)


def _reads_score(name: str | None, axis: Axis) -> Callable[[RunRecords], Curve | None]:
    return lambda run: score_curve(of_set(run.evaluations, name), run.metrics, "pass@1", axis)


def _plot(
    spec: _Metric,
    variants: Sequence[VariantRecords],
    axis: Axis,
    curve_of: Callable[[RunRecords], Curve | None],
    *,
    mode: str = "lines",
) -> Plot:
    figure = new_figure(x_title=AXES[axis], tick_format=spec.tick_format)
    if axis != "steps":
        figure.update_xaxes(tickformat="~s")
    for place, variant in enumerate(variants):
        # A run that failed has no end, and would cut the others' mean short.
        curves = [curve_of(run) for run in variant.runs if run.stage != "failed"]
        band = over_seeds([curve for curve in curves if curve is not None])
        if band is not None:
            _add_variant(figure, variant.name, _thinned(band), place, spec.tick_format, mode)
    return Plot(key=f"{spec.key}-{axis}", title=spec.title, caption=spec.caption, figure=figure)


def _add_variant(
    figure: go.Figure, name: str, band: Band, place: int, tick_format: str, mode: str
) -> None:
    color = _COLORS[place % len(_COLORS)]
    shared = {"x": band.x, "legendgroup": name, "mode": "lines"}
    if band.num_seeds > 1:
        edge = {"line": {"width": 0, "color": color}, "hoverinfo": "skip"}
        figure.add_scatter(y=band.high, **shared, **edge)
        figure.add_scatter(y=band.low, **shared, **edge, fill="tonexty", fillcolor=_faint(color))
    number = tick_format.replace(".0%", ".1%") if tick_format.endswith("%") else ".4~g"
    spread = (
        f" (%{{customdata[0]:{number}}} to %{{customdata[1]:{number}}}, {band.num_seeds} seeds)"
    )
    dash = _DASHES[place // len(_COLORS) % len(_DASHES)]
    figure.add_scatter(
        y=band.mean,
        **shared | {"mode": mode if len(band.x) > 1 else "markers"},
        name=name,
        customdata=list(zip(band.low, band.high, strict=True)),
        line={"color": color, "width": 2, "dash": dash},
        hovertemplate=f"%{{y:{number}}}" + (spread if band.num_seeds > 1 else ""),
    )


def _faint(color: str) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{_BAND_OPACITY})"


def _thinned(band: Band) -> Band:
    """Return the points that the page can show."""
    kept = kept_indices([round(x) for x in band.x], band.mean)
    values = {
        name: [float(f"{getattr(band, name)[i]:.6g}") for i in kept]
        for name in ("x", "mean", "low", "high")
    }
    return Band(**values, num_seeds=band.num_seeds)
