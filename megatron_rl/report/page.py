"""HTML page of the report, self-contained: key numbers, plots and completions to read."""

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from plotly.basedatatypes import BasePlotlyType
from plotly.offline import get_plotlyjs

from megatron_rl.report.cards import Card, make_cards
from megatron_rl.report.completions import FLAWS, CompletionView, completion_html
from megatron_rl.report.plots import Plot, make_plots
from megatron_rl.report.scores import Record, score_rows, scores_html
from megatron_rl.run_dir import publish_atomically

OFFLINE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
)
"""Content-Security-Policy of a page that fetches nothing."""
_VERDICTS = ("right", "wrong", *FLAWS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """A run's numbers and curves as the page shows them; the texts are HTML."""

    subtitle: str
    cards: str
    scores: str
    """Table of the latest scores of held-out sets."""
    rows: str
    plots: str
    """A card for each figure, in the page's order."""
    figures: Mapping[str, Any]
    """Plotly's figure of each plot, plain JSON."""


def write_report(
    path: Path,
    *,
    title: str,
    summary: Mapping[str, Any],
    metrics: Iterable[Record],
    evaluations: Iterable[Record],
    sft_metrics: Iterable[Record],
    completions: Sequence[CompletionView],
    stages: Sequence[Record] = (),
) -> None:
    """Write the page, whole or not at all; reading it needs no network.

    Args:
        path: where the HTML file goes.
        title: heading of the page, usually the run's name.
        summary: the result of :func:`megatron_rl.report.summary.summarize`.
        metrics: records of metrics.jsonl.
        evaluations: records of evaluations.jsonl.
        sft_metrics: records of sft/metrics.jsonl.
        completions: the completions that the page lists, in this order.
        stages: records of stages.jsonl.
    """
    drawing = draw_run(
        summary,
        metrics=metrics,
        evaluations=evaluations,
        sft_metrics=sft_metrics,
        stages=stages,
    )
    script = read_asset("page.js") + read_asset("filters.js")
    page = fill_page(
        title=title,
        policy=OFFLINE_POLICY,
        drawing=drawing,
        style=read_asset("page.css"),
        step_choices=step_options(sorted({completion.step for completion in completions})),
        completions="".join(completion_html(completion) for completion in completions)
        or nothing_html("No completions."),
        scripts=(
            f"<script>{get_plotlyjs()}</script>\n{figures_html(drawing.figures)}\n"
            f"<script>\n{script}</script>"
        ),
    )
    publish_atomically(path, page.encode())


def draw_run(
    summary: Mapping[str, Any],
    *,
    metrics: Iterable[Record],
    evaluations: Iterable[Record],
    sft_metrics: Iterable[Record],
    stages: Sequence[Record] = (),
) -> Drawing:
    """Draw a run from the records of its metric files and their summary."""
    evaluations = list(evaluations)
    plots = make_plots(
        metrics=metrics, evaluations=evaluations, sft_metrics=sft_metrics, stages=stages
    )
    return Drawing(
        subtitle=escape(_subtitle(summary)),
        cards="".join(_card_html(card) for card in make_cards(summary)),
        scores=scores_html(list(score_rows(evaluations))),
        rows="".join(_row_html(name, value) for name, value in summary.items()),
        plots="".join(plot_html(plot) for plot in plots) or nothing_html("No metrics yet."),
        figures={plot.key: plot.as_json() for plot in plots},
    )


def fill_page(
    *,
    title: str,
    policy: str,
    drawing: Drawing,
    style: str,
    step_choices: str,
    completions: str,
    scripts: str,
    before_numbers: str = "",
    after_plots: str = "",
    after_completions: str = "",
) -> str:
    """Return the page.

    Args:
        title: heading, plain text; the other texts are HTML.
        policy: the page's Content-Security-Policy, without double quotes.
        step_choices: the result of :func:`step_options`.
    """
    parts = {
        "title": escape(title),
        "policy": policy,
        "style": style,
        "subtitle": drawing.subtitle,
        "before_numbers": before_numbers,
        "cards": drawing.cards,
        "scores": drawing.scores,
        "rows": drawing.rows,
        "plots": drawing.plots,
        "after_plots": after_plots,
        "step_options": step_choices,
        "verdict_options": "".join(f"<option>{verdict}</option>" for verdict in _VERDICTS),
        "completions": completions,
        "after_completions": after_completions,
        "scripts": scripts,
    }
    return fill_placeholders(read_asset("page.html"), parts)


def fill_placeholders(template: str, parts: Mapping[str, str]) -> str:
    """Return the template with each ``{{name}}`` replaced by the part of that name.

    In one pass, so that nothing inside an inserted text is taken for a placeholder.
    """
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def step_options(steps: Iterable[int]) -> str:
    """Return the choices of the filter by step."""
    return '<option value="">all</option>' + "".join(f"<option>{step}</option>" for step in steps)


def figures_html(figures: Mapping[str, Any], attributes: str = "") -> str:
    """Return the script element that holds the figures; its JSON cannot end it."""
    data = json.dumps(figures).replace("<", "\\u003c")
    return f'<script type="application/json" id="figures"{attributes}>{data}</script>'


@functools.cache
def read_asset(name: str) -> str:
    """Return the text of a file beside this one."""
    return resources.files("megatron_rl.report").joinpath(name).read_text()


def _subtitle(summary: Mapping[str, Any]) -> str:
    parts = [f"{summary['steps']:,} steps", f"{summary['rollout/completions']:,.0f} completions"]
    if summary["rollout/tokens"]:
        parts.append(f"{summary['rollout/tokens'] / 1e6:,.2f} M tokens")
    if summary["sft/steps"]:
        parts.append(f"{summary['sft/steps']:,} fine-tuning steps before")
    return ", ".join(parts)


def _card_html(card: Card) -> str:
    value = f'<span class="arrow">{chr(0x2192)}</span>'.join(escape(v) for v in card.values)
    main = " main" if card.is_main else ""
    return (
        f'<div class="card number{main}"><div class="label">{escape(card.label)}</div>'
        f'<div class="value">{value}</div><div class="note">{escape(card.note)}</div></div>'
    )


def _row_html(name: str, value: Any) -> str:
    shown = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return f"<tr><td>{escape(name)}</td><td>{escape(shown)}</td></tr>"


def plot_html(plot: Plot) -> str:
    """Return the card of a plot, which the page's script draws."""
    return (
        f'<div class="card plot"><h3>{escape(plot.title)}</h3>'
        f'<p class="muted">{escape(plot.caption)}</p>'
        f'<div class="keys">{_legend_html(plot)}</div>'
        f'<div class="figure" id="plot-{escape(plot.key)}"></div></div>'
    )


def _legend_html(plot: Plot) -> str:
    """One button per named trace, which shows and hides it; a single trace needs no legend."""
    named = [trace for trace in plot.figure.data if trace.name is not None]
    if len(named) < 2:
        return ""
    return "".join(
        f'<button class="key" aria-pressed="true" data-plot="{escape(plot.key)}"'
        f' style="--c: {_color(trace)}">{escape(trace.name)}</button>'
        for trace in named
    )


def _color(trace: BasePlotlyType) -> str:
    return str(trace.marker.color if trace.type == "bar" else trace.line.color)


def nothing_html(text: str) -> str:
    """Return a muted line in place of what is not there."""
    return f'<p class="muted">{escape(text)}</p>'
