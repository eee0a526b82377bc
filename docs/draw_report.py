"""Draw docs/report.svg: what is on a run's report page, small enough for the README.

    python docs/draw_report.py runs/demo/report.html "WHICH RUN" > docs/report.svg

Numbers, curves, legends and the completion are taken out of the page itself. Only the standard
library is needed.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

from svg import box, document, spread, text

WIDTH = 960
LEFT, RIGHT = 24, 936
PLOTS = ("reward", "evaluation", "length", "step_time", "throughput", "staleness")
NUM_CARDS = 12
_TINTS = ("#4f83cc", "#d9923b", "#4a9e6b", "#8d74c4", "#cf5f5f", "#379aa5", "#b0a12e", "#c76ba5")
_LETTER = 7.3
"""Width of a character of size 12 in a type whose characters are all as wide."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Numbers from ``low`` to ``high``, drawn between two places."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        """Return where a number is."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the picture of a report page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("page", type=Path, help="report.html of a run")
    parser.add_argument("run", help="which run it is, for the picture's corner")
    options = parser.parse_args(argv)
    page, run = options.page.read_text(), options.run
    completion = _longest_span_completion(page)
    top = 92.0
    parts = [
        text((LEFT, 44), _first(r"<h1>(.*?)</h1>", page), size=20, style="ink bold"),
        text(
            (LEFT, 66), _first(r'<div class="muted" id="subtitle">(.*?)</div>', page), style="muted"
        ),
        text((RIGHT, 44), run, size=12, style="muted end"),
        *_cards(page, top),
        *_plots(page, top + 162),
        *_completion(completion, top + 162 + 424),
    ]
    height = round(top + 162 + 424 + 92)
    sys.stdout.write(document(WIDTH, height, title=f"Report of a run: {run}", parts=parts))
    return 0


def _first(pattern: str, page: str) -> str:
    found = re.search(pattern, page, flags=re.DOTALL)
    assert found is not None, pattern
    return unescape(found[1])


def _cards(page: str, top: float) -> Iterator[str]:
    pattern = (
        r'<div class="card number( main)?"><div class="label">(.*?)</div>'
        r'<div class="value">(.*?)</div><div class="note">(.*?)</div></div>'
    )
    found = re.findall(pattern, page)[:NUM_CARDS]
    places, width = spread(LEFT, RIGHT, 6, gap=10)
    for i, (is_main, label, value, note) in enumerate(found):
        row, column = divmod(i, 6)
        x, y = places[column], top + row * 76
        shown = unescape(re.sub(r"<.*?>", " ", value))
        shown = " ".join(shown.split())
        yield box((x, y), width, 66, style="card")
        yield text((x + 12, y + 19), unescape(label), size=11, style="muted")
        yield text((x + 12, y + 40), shown, size=15, style=f"{'accent' if is_main else 'ink'} bold")
        yield text((x + 12, y + 57), unescape(note), size=10, style="muted")


def _plots(page: str, top: float) -> Iterator[str]:
    figures = json.loads(_first(r'id="figures">(.*?)</script>', page))
    heads = {
        key: (title, caption)
        for title, caption, key in re.findall(
            r'<h3>(.*?)</h3><p class="muted">(.*?)</p>.*?id="plot-(\w+)"', page
        )
    }
    places, width = spread(LEFT, RIGHT, 3, gap=12)
    for i, key in enumerate(PLOTS):
        row, column = divmod(i, 3)
        x, y = places[column], top + row * 212
        title, caption = heads[key]
        yield box((x, y), width, 200, style="card")
        yield text((x + 12, y + 21), unescape(title), size=13, style="ink bold")
        yield text((x + 12, y + 37), unescape(caption), size=10.5, style="muted")
        rows = _legend_rows(figures[key]["data"], width - 24)
        yield from _legend(rows, x + 12, y + 53)
        down = 14 * max(0, len(rows) - 1)
        yield from _figure(figures[key], x + 44, y + 62 + down, width - 56, 114 - down)


def _legend_rows(traces: Sequence[Any], room: float) -> list[list[Any]]:
    """Deal the traces that have a name to lines; one alone needs no legend."""
    named = [trace for trace in traces if "name" in trace]
    if len(named) < 2:
        return []
    rows: list[list[Any]] = [[]]
    for trace in named:
        if sum(_legend_width(other) for other in [*rows[-1], trace]) > room:
            rows.append([])
        rows[-1].append(trace)
    return rows


def _legend_width(trace: Any) -> float:
    return 22 + 5.6 * len(trace["name"])


def _legend(rows: Sequence[Sequence[Any]], left: float, y: float) -> Iterator[str]:
    for row in rows:
        x = left
        for trace in row:
            yield f'<rect x="{x:g}" y="{y - 5:g}" width="11" height="3" rx="1.5" {_paint(trace)}/>'
            yield text((x + 14, y), trace["name"], size=10, style="muted")
            x += _legend_width(trace)
        y += 14


def _paint(trace: Any) -> str:
    marker = trace["marker"] if trace["type"] == "bar" else trace["line"]
    return f'fill="{marker["color"]}"'


def _figure(figure: Any, x: float, y: float, width: float, height: float) -> Iterator[str]:
    """Draw grid, numbers at the axes, bars and lines of one of the page's figures."""
    traces = figure["data"]
    bars = [trace for trace in traces if trace["type"] == "bar"]
    lines = [trace for trace in traces if trace["type"] == "scatter"]
    across = _axis([v for trace in traces for v in trace["x"]], start=x, end=x + width)
    tops = [sum(column) for column in zip(*(bar["y"] for bar in bars), strict=True)]
    values = [*tops, *(v for trace in lines for v in trace["y"])]
    from_zero = "rangemode" in figure["layout"]["yaxis"] or bool(bars)
    ticks = _ticks(min(0.0, *values) if from_zero else min(values), max(values), 4)
    upward = Axis(low=ticks[0], high=ticks[-1], start=y + height, end=y)
    for tick in ticks:
        at = upward.place(tick)
        yield f'<path class="grid" d="M{x:g} {at:.1f}H{x + width:g}"/>'
        words = _number(tick, figure["layout"]["yaxis"])
        yield text((x - 6, at + 3.5), words, size=10, style="muted end")
    for tick in _ticks(across.low, across.high, 5):
        if across.low <= tick <= across.high:
            at = (across.place(tick), y + height + 15)
            yield text(at, f"{tick:g}", size=10, style="muted middle")
    yield from _bars(bars, across, upward)
    for trace in lines:
        yield _line(trace, across, upward)


def _axis(values: Sequence[float], *, start: float, end: float) -> Axis:
    low, high = min(values), max(values)
    return Axis(low=low, high=high if high > low else low + 1, start=start, end=end)


def _bars(bars: Sequence[Any], across: Axis, upward: Axis) -> Iterator[str]:
    if not bars:
        return
    count = len(bars[0]["x"])
    room = (across.end - across.start) / count
    floors = [0.0] * count
    for bar in bars:
        path = ""
        for i, value in enumerate(bar["y"]):
            low, high = upward.place(floors[i]), upward.place(floors[i] + value)
            left = across.start + i * room
            path += f"M{left:.1f} {low:.1f}h{room:.1f}V{high:.1f}h{-room:.1f}z"
            floors[i] += value
        yield f'<path d="{path}" {_paint(bar)}/>'


def _line(trace: Any, across: Axis, upward: Axis) -> str:
    points = [
        f"{across.place(a):.1f} {upward.place(b):.1f}"
        for a, b in zip(trace["x"], trace["y"], strict=True)
    ]
    look = trace["line"]
    width = max(1.0, look["width"] * 0.8)
    dash = ' stroke-dasharray="2 4"' if "dash" in look and look["dash"] == "dot" else ""
    faint = f' opacity="{trace["opacity"]}"' if "opacity" in trace else ""
    return (
        f'<path class="line" d="M{"L".join(points)}" stroke="{look["color"]}"'
        f' stroke-width="{width:g}"{dash}{faint}/>'
    )


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Return round numbers from at most ``low`` to at least ``high``."""
    span = high - low if high > low else 1.0
    raw = span / about
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(f * unit for f in (1, 2, 2.5, 5, 10) if f * unit >= raw)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _number(value: float, axis: Any) -> str:
    form = axis["tickformat"] if "tickformat" in axis else ""
    if form.endswith("%"):
        return f"{value:.0%}"
    return f"{value / 1000:g}k" if form == "~s" and value >= 1000 else f"{value:g}"


def _longest_span_completion(page: str) -> tuple[str, str, str, list[tuple[int, str]]]:
    """Return step, verdict, problem and tinted pieces of a late, right one that spans versions."""
    entry = re.compile(
        r'data-step="(\d+)" data-verdict="(right|wrong)">.*?<dt>Problem</dt><dd>(.*?)</dd>'
        r'.*?<div class="text">(.*?)</div></div></details>',
        flags=re.DOTALL,
    )
    chosen = None
    for step, verdict, problem, body in entry.findall(page):
        pieces = re.findall(r'title="policy version (\d+)">(.*?)</span>', body, flags=re.DOTALL)
        spans = [(int(version), unescape(words)) for version, words in pieces]
        if len(spans) > 1 and verdict == "right":
            chosen = (step, verdict, unescape(problem), spans)
    assert chosen is not None, "no completion of the page spans versions"
    return chosen


def _completion(chosen: tuple[str, str, str, list[tuple[int, str]]], top: float) -> Iterator[str]:
    step, verdict, problem, spans = chosen
    yield box((LEFT, top), RIGHT - LEFT, 72, style="card")
    versions = " and ".join(str(version) for version, _ in spans)
    words = f"step {step}, {verdict}, sampled by policy versions {versions}: {problem}"
    yield text((LEFT + 12, top + 22), words, size=11, style="muted")
    x = LEFT + 12.0
    for version, piece in spans:
        width = _LETTER * len(piece)
        tint = _TINTS[version % len(_TINTS)]
        yield (
            f'<rect x="{x:g}" y="{top + 36:g}" width="{width:g}" height="22" rx="3"'
            f' fill="{tint}" opacity="0.25"/>'
        )
        # Fixed, so that the tint lies under its words in every reader's type.
        yield (
            text((x, top + 51), piece, size=12, style="ink mono").replace(
                "<text", f'<text textLength="{width:g}" xml:space="preserve"', 1
            )
        )
        x += width


if __name__ == "__main__":
    sys.exit(main())
