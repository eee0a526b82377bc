"""Scores of held-out sets: which records are of which set, and the table of the latest. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

Record = Mapping[str, Any]

INTERVAL = 1.96
"""Standard errors on either side of a mean, between which 95 % of a normal distribution lie."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRow:
    """Latest scores of a held-out set, or of a part of it."""

    title: str
    version: int
    problems: int
    k: int
    scores: Mapping[str, float]
    """By name; those that there are of pass@1, maj@k, pass@k and their standard errors."""
    length_mean: float
    truncated: float | None
    """Share of completions that were cut off; None in a record of an older release."""
    is_part: bool


def set_of(record: Record) -> str | None:
    """Return the name of the held-out set that a record of evaluations.jsonl is of."""
    return record["set"] if "set" in record else None


def sets_in(evaluations: Iterable[Record]) -> list[str | None]:
    """Return the names of the sets that there are records of, in the order of the configuration."""
    places = {set_of(r): r["place"] if "place" in r else 0 for r in evaluations}
    return sorted(places, key=lambda name: (places[name], name is not None))


def of_set(evaluations: Iterable[Record], name: str | None) -> list[Record]:
    """Return the records of one set."""
    return [record for record in evaluations if set_of(record) == name]


def latest_evaluations(evaluations: Iterable[Record]) -> list[Record]:
    """Sort by version, keeping the last record of each set, version and moment."""
    kept = {(set_of(r), r["version"], r["when"]): r for r in evaluations}
    return sorted(kept.values(), key=lambda record: (record["version"], record["time"]))


def parts_of(record: Record) -> dict[str, dict[str, float]]:
    """Return the scores of the parts of a set by "field value", such as "language fr"."""
    parts: dict[str, dict[str, float]] = {}
    for key, number in record.items():
        part, _, name = key.rpartition("/")
        if part:
            parts.setdefault(part.replace("/", " ", 1), {})[name] = number
    return parts


def score_rows(evaluations: Iterable[Record]) -> Iterator[ScoreRow]:
    """Yield a row for the latest scores of each set, each followed by those of its parts."""
    records = latest_evaluations(evaluations)
    for name in sets_in(records):
        last = of_set(records, name)[-1]
        title = "held-out problems" if name is None else name
        yield _row(title, last, last, is_part=False)
        for part, scores in parts_of(last).items():
            yield _row(part, scores, last, is_part=True)


def scores_html(rows: Sequence[ScoreRow]) -> str:
    """Return the table as HTML, nothing without rows."""
    if not rows:
        return ""
    names = ("set", "version", "problems", "samples", "pass@1", "maj@k", "pass@k", "length")
    head = "".join(f"<th>{name}</th>" for name in (*names, "cut off"))
    body = "".join(_row_html(row) for row in rows)
    return (
        "<h2>Held-out scores</h2>"
        '<p class="muted">The latest of each set; &plusmn; is half of a 95 % interval over '
        "problems.</p>"
        f'<table class="scores"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    )


def shown_score(scores: Mapping[str, float], name: str) -> str:
    """Return a score with half of its 95 % interval, such as "73.6% ± 4.1"."""
    if name not in scores:
        return ""
    value = f"{scores[name]:.1%}"
    error = f"{name}_stderr"
    return f"{value} \u00b1 {100 * INTERVAL * scores[error]:.1f}" if error in scores else value


def _row(title: str, scores: Mapping[str, Any], record: Record, *, is_part: bool) -> ScoreRow:
    return ScoreRow(
        title=title,
        version=record["version"],
        problems=scores["problems"],
        k=record["k"],
        scores=scores,
        length_mean=scores["length_mean"],
        truncated=scores["truncated"] if "truncated" in scores else None,
        is_part=is_part,
    )


def _row_html(row: ScoreRow) -> str:
    # With one sample per problem the three scores are the same number.
    names = ("pass@1", "maj@k", "pass@k") if row.k > 1 else ("pass@1",)
    scores = [shown_score(row.scores, name) for name in names]
    cells = [
        *(f"{row.version:,}", f"{row.problems:,}", f"{row.k:,}"),
        *scores,
        *[""] * (3 - len(scores)),
        f"{row.length_mean:,.0f}",
        "" if row.truncated is None else f"{row.truncated:.1%}",
    ]
    kind = ' class="part"' if row.is_part else ""
    shown = "".join(f"<td>{escape(cell)}</td>" for cell in (row.title, *cells))
    return f"<tr{kind}>{shown}</tr>"
