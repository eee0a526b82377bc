"""Held-out scores of several sets: the table of the latest, and a plot of each."""

from pathlib import Path
from typing import Any

from megatron_rl.report.plots import make_plots
from megatron_rl.report.scores import score_rows, scores_html, sets_in


def record(version: int, when: str, **changes: Any) -> dict[str, Any]:
    return {
        "version": version, "time": 1.0 + version, "when": when, "problems": 30, "samples": 1920,
        "k": 64, "pass@1": 0.5, "pass@1_stderr": 0.05, "pass@k": 0.75, "pass@k_stderr": 0.0,
        "maj@k": 0.625, "maj@k_stderr": 0.1, "length_mean": 12_345.6, "truncated": 0.125,
        "version_mean": version + 0.5, **changes,
    }  # fmt: skip


FRENCH = {
    "language/fr/problems": 10, "language/fr/pass@1": 0.25, "language/fr/pass@1_stderr": 0.1,
    "language/fr/maj@k": 0.5, "language/fr/pass@k": 0.5, "language/fr/length_mean": 99.0,
    "language/fr/truncated": 0.0,
}  # fmt: skip
AIME = {"set": "aime24", "place": 0}
CODE = {"set": "code<b>", "place": 1, "k": 1}
RECORDS = [
    record(0, "before", **CODE),
    record(0, "before", **AIME, **FRENCH),
    record(20, "during", **AIME, **FRENCH),
]


def test_the_table_has_the_latest_scores_of_each_set_and_of_its_parts():
    rows = list(score_rows(RECORDS))
    assert [(row.title, row.version, row.is_part) for row in rows] == [
        ("aime24", 20, False),
        ("language fr", 20, True),
        ("code<b>", 0, False),
    ]
    assert [row.problems for row in rows] == [30, 10, 30]
    html = scores_html(rows)
    # 1.96 standard errors of 0.05 are 9.8 points on either side, of 0.1 19.6.
    first, part, code = html.split("<tr")[2:]
    assert ">50.0% \u00b1 9.8<" in first and ">62.5% \u00b1 19.6<" in first
    assert ">75.0% \u00b1 0.0<" in first and ">12,346<" in first and ">12.5%<" in first
    assert ">25.0% \u00b1 19.6<" in part and ">50.0%<" in part
    assert "code&lt;b&gt;" in code and "62.5%" not in code  # one sample has one score


def test_without_evaluations_there_is_no_table():
    assert scores_html(list(score_rows([]))) == ""


def test_sets_are_in_the_order_of_the_configuration_whichever_was_done_first():
    assert sets_in(RECORDS) == ["aime24", "code<b>"]
    assert sets_in([record(0, "before", **AIME), record(0, "before")]) == [None, "aime24"]
    assert sets_in([]) == []


def test_each_set_has_a_plot_with_intervals_and_the_curves_of_its_parts():
    plots = make_plots(metrics=[], evaluations=RECORDS, sft_metrics=[])
    assert [plot.key for plot in plots] == ["evaluation", "evaluation-code<b>"]
    assert plots[0].title == "Held-out accuracy: aime24"
    traces = {trace.name: trace for trace in plots[0].figure.data}
    assert set(traces) == {"pass@1", "maj@k", "pass@k", "fr"}
    assert list(traces["fr"].x) == [0.5, 20.5] and list(traces["fr"].y) == [0.25, 0.25]
    assert list(traces["pass@1"].error_y.array) == [1.96 * 0.05] * 2
    assert [trace.name for trace in plots[1].figure.data] == ["pass@1"]


def test_the_page_has_the_table(tmp_path: Path):
    from megatron_rl.report.page import write_report
    from megatron_rl.report.summary import summarize

    records = {"metrics": [], "evaluations": RECORDS, "sft_metrics": []}
    summary = summarize(**records, phase_seconds={})
    path = tmp_path / "report.html"
    write_report(path, title="run", summary=summary, completions=[], **records)
    text = path.read_text()
    assert "<h2>Held-out scores</h2>" in text
    assert "pass@1 of aime24" in text  # the card
    assert "evaluation/aime24/pass@1/before" in text  # all numbers
