"""Pieces of the pictures in this folder: text, boxes, arrows and the document around them.

Every function returns SVG as text. Colours are classes of one style sheet, which has a second set
for readers whose system is dark; nothing is fetched, and fonts are those of the reader.
"""

from collections.abc import Iterable, Sequence
from html import escape

Point = tuple[float, float]

_STYLE = """\
text { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
.mono { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.bold { font-weight: 600; } .middle { text-anchor: middle; } .end { text-anchor: end; }
.page { fill: #f6f7f9; } .card { fill: #ffffff; stroke: #d5dbe4; }
.ink { fill: #1c2430; } .muted { fill: #5b6675; } .accent { fill: #2f6fbf; }
.program { fill: #e8f0fa; stroke: #6d9bd6; } .part { fill: #ffffff; stroke: #a9c4e6; }
.folder { fill: #fbf3e4; stroke: #d9a753; } .file { fill: #ffffff; stroke: #e3c48f; }
.grid { stroke: #e6eaf0; } .line { fill: none; stroke-linejoin: round; stroke-linecap: round; }
.asks { stroke: #5b6675; } .asks-head { fill: #5b6675; }
.batch { stroke: #b9802a; } .batch-head, .batch-ink { fill: #94641a; }
.weights { stroke: #2f8a57; } .weights-head, .weights-ink { fill: #26744a; }
@media (prefers-color-scheme: dark) {
.page { fill: #12161c; } .card { fill: #1a2029; stroke: #343e4c; }
.ink { fill: #e4e8ee; } .muted { fill: #9aa5b5; } .accent { fill: #7fb0f0; }
.program { fill: #18273a; stroke: #4977b0; } .part { fill: #1d2937; stroke: #3d5f8a; }
.folder { fill: #2a2318; stroke: #8f6d34; } .file { fill: #2c2820; stroke: #6d5730; }
.grid { stroke: #262e39; }
.asks { stroke: #9aa5b5; } .asks-head { fill: #9aa5b5; }
.batch { stroke: #d9a753; } .batch-head, .batch-ink { fill: #e3b96f; }
.weights { stroke: #62bf8b; } .weights-head, .weights-ink { fill: #74cc9a; }
}
"""
_HEADS = ("asks", "batch", "weights")


def document(width: int, height: int, *, title: str, parts: Iterable[str]) -> str:
    """Return the whole picture on a page of its own colour; ``title`` is read to the blind."""
    markers = "".join(
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
        f' orient="auto"><path class="{name}-head" d="M0 0.5 8 4 0 7.5z"/></marker>'
        for name in _HEADS
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
            f' viewBox="0 0 {width} {height}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{_STYLE}</style>",
            f"<defs>{markers}</defs>",
            f'<rect class="page" width="{width}" height="{height}" rx="12"/>',
            *parts,
            "</svg>\n",
        ]
    )


def text(at: Point, words: str, *, size: float = 13, style: str = "ink") -> str:
    """Return one line of text; ``at`` is where its base line starts, or its middle or end."""
    x, y = at
    return f'<text class="{style}" x="{x:g}" y="{y:g}" font-size="{size:g}">{escape(words)}</text>'


def box(at: Point, width: float, height: float, *, style: str, radius: float = 8) -> str:
    """Return a rectangle with round corners; ``at`` is its upper left corner."""
    x, y = at
    return (
        f'<rect class="{style}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
        f' rx="{radius:g}"/>'
    )


def chip(at: Point, width: float, words: str, *, style: str, font: str = "") -> str:
    """Return a small box, 26 high, with its words in the middle."""
    x, y = at
    label = text((x + width / 2, y + 17.5), words, size=12, style=f"ink middle {font}".strip())
    return box(at, width, 26, style=style, radius=6) + label


def arrow(points: Sequence[Point], *, style: str) -> str:
    """Return a line through the points with a head at its end; ``style`` is one of those above."""
    path = " ".join(f"{x:g} {y:g}" for x, y in points)
    return f'<path class="line {style}" d="M{path}" stroke-width="2" marker-end="url(#{style})"/>'


def spread(start: float, end: float, count: int, *, gap: float) -> tuple[list[float], float]:
    """Return where ``count`` boxes of one width begin between two places, and that width."""
    width = (end - start - gap * (count - 1)) / count
    return [start + i * (width + gap) for i in range(count)], width
