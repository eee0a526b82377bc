"""HTML page of a check, self-contained: every stage with its figures, tolerances and log's end."""

import re
from collections.abc import Mapping
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from megatron_rl.programs.stage_runs.report import Report
from megatron_rl.programs.stage_runs.result import BAD, Figure, StageResult, short
from megatron_rl.run_dir import publish_atomically


def write_page(path: Path, report: Report) -> None:
    """Write the page, whole or not at all; reading it needs no network and no script."""
    parts = {
        "title": escape(report.title),
        "subtitle": escape(f"{report.date}; {report.command}"),
        "verdict": escape(report.verdict),
        "verdict_class": "failed" if report.failed else "passed",
        "stages": "".join(_stage_html(result) for result in report.results),
        "machine": _rows_html(report.machine),
        "versions": _rows_html(report.versions),
    }
    template = resources.files("megatron_rl.programs.stage_runs").joinpath("page.html").read_text()
    # One pass, so that nothing inside an inserted text is taken for a placeholder.
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)
    publish_atomically(path, page.encode())


def _stage_html(result: StageResult) -> str:
    is_bad = result.status in BAD
    look = "failed" if is_bad else result.status
    reason = f"<p>{escape(result.reason)}</p>" if result.reason else ""
    notes = "".join(f'<p class="muted">{escape(note)}</p>' for note in result.notes)
    figures = "".join(_figure_html(figure) for figure in result.figures)
    logs = f'<p class="muted">{escape(", ".join(result.logs))}</p>' if result.logs else ""
    tail = f"<pre>{escape(result.tail)}</pre>" if result.tail else ""
    return (
        f"<details{' open' if is_bad else ''}><summary><b>{escape(result.name)}</b>"
        f'<span class="{look}">{escape(result.status)}</span> '
        f'<span class="muted">in {short(round(result.seconds, 1))} s: {escape(result.shows)}</span>'
        f"</summary>{reason}<table>{figures}</table>{notes}{logs}{tail}</details>"
    )


def _figure_html(figure: Figure) -> str:
    look = "" if figure.holds else " failed"
    why = ""
    if figure.limit is not None:
        why = f'<span class="why">{escape(f"{figure.limit}: {figure.limit.reason}")}</span>'
    return (
        f"<tr><td>{escape(figure.name)}{why}</td>"
        f'<td class="number{look}">{escape(short(figure.value))} {escape(figure.unit)}</td></tr>'
    )


def _rows_html(facts: Mapping[str, Any]) -> str:
    return "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(line)}</td></tr>"
        for name, value in facts.items()
        for line in _lines(value)
    )


def _lines(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [f"{name}={text}" for name, text in value.items()] or ["none"]
    if isinstance(value, list):
        return [", ".join(_lines(item)) for item in value] or ["none"]
    return ["none" if value is None else str(value)]
