"""HTML page of the report, self-contained: key numbers, plots and completions to read."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from plotly.basedatatypes import BasePlotlyType
from plotly.offline import get_plotlyjs

from megatron_rl.report.cards import Card, make_cards
from megatron_rl.report.completions import CompletionView, completion_html
from megatron_rl.report.plots import Plot, make_plots
from megatron_rl.report.summary import Record
from megatron_rl.run_dir import publish_atomically


def write_report(
    path: Path,
    *,
    title: str,
    summary: Mapping[str, Any],
    metrics: Iterable[Record],
    evaluations: Iterable[Record],
    sft_metrics: Iterable[Record],
    completions: Sequence[CompletionView],
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
    """
    plots = make_plots(metrics=metrics, evaluations=evaluations, sft_metrics=sft_metrics)
    steps = sorted({completion.step for completion in completions})
    parts = {
        "title": escape(title),
        "subtitle": escape(_subtitle(summary)),
        "cards": "".join(_card_html(card) for card in make_cards(summary)),
        "rows": "".join(_row_html(name, value) for name, value in summary.items()),
        "plots": "".join(_plot_html(plot) for plot in plots) or _nothing("No metrics yet."),
        "step_options": "".join(f"<option>{step}</option>" for step in steps),
        "completions": "".join(completion_html(completion) for completion in completions)
        or _nothing("No completions."),
        "plotly_js": get_plotlyjs(),
        "figures": _figures_json(plots),
    }
    template = resources.files("megatron_rl.report").joinpath("page.html").read_text()
    # One pass, so that nothing inside an inserted text is taken for a placeholder.
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)
    publish_atomically(path, page.encode())


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


def _plot_html(plot: Plot) -> str:
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


def _figures_json(plots: Sequence[Plot]) -> str:
    """JSON that cannot end the script element it is put in."""
    figures = {plot.key: json.loads(plot.figure.to_json()) for plot in plots}
    return json.dumps(figures).replace("<", "\\u003c")


def _nothing(text: str) -> str:
    return f'<p class="muted">{escape(text)}</p>'
