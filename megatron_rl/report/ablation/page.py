"""HTML page of an ablation, self-contained: the table of variants, the runs, and the curves."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from megatron_rl.report.ablation.curves import AXES
from megatron_rl.report.ablation.plots import make_ablation_plots
from megatron_rl.report.ablation.records import VariantRecords, score_title
from megatron_rl.report.ablation.scores import SetScores, Spread, VariantScores
from megatron_rl.report.cards import format_duration
from megatron_rl.report.page import (
    OFFLINE_POLICY,
    figures_html,
    fill_placeholders,
    nothing_html,
    plot_html,
    read_asset,
)
from megatron_rl.report.plots import Plot
from megatron_rl.run_dir import publish_atomically


def write_ablation_page(
    path: Path,
    *,
    title: str,
    question: str,
    subtitle: str,
    variants: Sequence[VariantRecords],
    scores: Sequence[VariantScores],
) -> None:
    """Write the page, whole or not at all; reading it needs no network.

    Args:
        path: where the HTML file goes.
        title: heading of the page.
        question: what the ablation is to answer; may be empty.
        subtitle: how much of it there is.
        variants: what the runs have recorded.
        scores: the result of :func:`megatron_rl.report.ablation.scores.score_variants`.
    """
    plots = {axis: make_ablation_plots(variants, axis) for axis in AXES}
    everything = [plot for of_axis in plots.values() for plot in of_axis]
    script = read_asset("page.js") + _read("ablation.js")
    page = fill_placeholders(
        _read("ablation.html"),
        {
            "title": escape(title),
            "policy": OFFLINE_POLICY,
            "style": read_asset("page.css") + _read("ablation.css"),
            "question": escape(question),
            "subtitle": escape(subtitle),
            "scores": scores_table(scores),
            "numbers": _numbers_table(scores),
            "runs": "".join(_run_rows(variants)),
            "axes": _axis_buttons(),
            "plots": "".join(_axis_html(axis, plots[axis]) for axis in AXES),
            "scripts": f"<script>{get_plotlyjs()}</script>\n"
            f"{figures_html(_figures(everything))}\n<script>\n{script}</script>",
        },
    )
    publish_atomically(path, page.encode())


def scores_table(scores: Sequence[VariantScores]) -> str:
    """Return the table of scores as HTML."""
    names = list(scores[0].sets) if scores else []
    heads = ["variant", "runs", *(head for name in names for head in _score_heads(name))]
    rows = (
        [
            row.name,
            f"{row.num_done} of {row.num_runs}" if row.num_runs else "",
            *(cell for name in names for cell in _score_cells(row.sets[name])),
        ]
        for row in scores
    )
    return _table(heads, rows)


def _score_heads(name: str | None) -> list[str]:
    title = score_title(name)
    return [f"{title}, start", f"{title}, end", "difference from the first"]


def _score_cells(scores: SetScores) -> list[str]:
    before = "" if scores.before is None else f"{scores.before.mean:.1%}"
    return [before, _percent(scores.after), _points(scores.difference)]


def _percent(spread: Spread | None) -> str:
    if spread is None:
        return ""
    deviation = "" if spread.spread is None else f" ± {100 * spread.spread:.1f}"
    return f"{spread.mean:.1%}{deviation}"


def _points(spread: Spread | None) -> str:
    """Return a difference of two shares in points."""
    if spread is None:
        return ""
    error = "" if spread.spread is None else f" ± {100 * spread.spread:.1f}"
    return f"{100 * spread.mean:+.1f}{error} ({_count(spread.num_seeds, 'seed')})"


def _numbers_table(scores: Sequence[VariantScores]) -> str:
    names = list(scores[0].numbers) if scores else []
    rows = (
        [row.name, *(_number(name, row.numbers[name]) for name in names), row.settings]
        for row in scores
    )
    heads = ["variant", *("wall time" if name == "seconds" else name for name in names)]
    return _table([*heads, "what it changes"], rows)


def _number(name: str, spread: Spread | None) -> str:
    if spread is None:
        return ""
    if name == "seconds":
        return format_duration(spread.mean)
    is_count = name in ("steps", "prompts", "tokens")
    shown = f"{spread.mean:,.0f}" if is_count else f"{spread.mean:.4g}"
    has_spread = spread.spread is not None and not is_count
    return f"{shown} ± {spread.spread:.2g}" if has_spread else shown


def _run_rows(variants: Iterable[VariantRecords]) -> Iterator[str]:
    for variant in variants:
        for run in variant.runs:
            look = ' class="wrong"' if run.stage == "failed" else ""
            yield (
                f"<tr><td>{escape(variant.name)}</td><td>seed {run.seed}</td>"
                f"<td{look}>{escape(run.progress)}</td></tr>"
            )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<table class="variants"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _axis_buttons() -> str:
    return "".join(
        f'<button class="axis" data-axis="{axis}" aria-pressed="{str(axis == "steps").lower()}">'
        f"{escape(title)}</button>"
        for axis, title in AXES.items()
    )


def _axis_html(axis: str, plots: Sequence[Plot]) -> str:
    cards = "".join(plot_html(plot) for plot in plots) or nothing_html("No metrics yet.")
    hidden = "" if axis == "steps" else " hidden"
    return f'<section class="plots" data-axis="{axis}"{hidden}>{cards}</section>'


def _figures(plots: Iterable[Plot]) -> Mapping[str, Any]:
    return {plot.key: plot.as_json() for plot in plots}


def _count(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")


def _read(name: str) -> str:
    return resources.files("megatron_rl.report.ablation").joinpath(name).read_text()
