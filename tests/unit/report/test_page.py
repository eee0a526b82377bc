import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from megatron_rl.report.completions import CompletionView, completion_html
from megatron_rl.report.figures import bin_means, smooth
from megatron_rl.report.page import write_report
from megatron_rl.report.plots import make_plots
from megatron_rl.report.summary import summarize

METRICS = [
    {
        "step": step, "time": 100.0 + step, "reward/total": 0.5, "reward/format": 0.1,
        "reward/correctness": 0.4, "reward/length": 0.0, "rollout/correct": 0.25,
        "rollout/length_mean": 100.0, "rollout/length_max": 200, "rollout/staleness_mean": 1.0,
        "rollout/staleness_max": 2, "policy/clip_fraction": 0.01, "policy/entropy": 0.5,
        "policy/grad_norm": 0.3, "generation/tokens_per_s": 1000.0, "learner/tokens_per_s": 2000.0,
        "generation/busy_fraction": 0.9, "time/wait_s": 1.0, "time/update_s": 2.0,
        "time/publish_s": 0.5, "time/step_s": 3.5,
    }
    for step in range(1, 4)
]  # fmt: skip
EVALUATIONS = [
    {"version": 0, "time": 1.0, "when": "before", "problems": 4, "samples": 4, "k": 4,
     "pass@1": 0.25, "pass@k": 0.5, "maj@k": 0.5, "format": 1.0, "length_mean": 9.0, "seconds": 1.0}
]  # fmt: skip
SFT_METRICS = [{"step": 1, "time": 1.0, "sft/loss": 2.0}]
ALL_PLOTS = {
    "reward", "evaluation", "length", "entropy", "clip_fraction", "grad_norm", "staleness",
    "step_time", "throughput", "fractions", "sft_loss",
}  # fmt: skip
HOSTILE = '</script><script>alert(1)</script><img src="https://evil.example/x.png">{{plotly_js}}'


def view(text: str, *, correct: bool = True) -> CompletionView:
    return CompletionView(
        step=3, problem=text, gold=text, spans=[(1, text), (9, "tail")],
        reward_parts={"format": 0.1, "correctness": 0.9}, correct=correct, reason=text,
    )  # fmt: skip


class PageReader(HTMLParser):
    """Collects what a browser would see as elements, links and script bodies."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids |= {value for name, value in attrs if name == "id" and value is not None}
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and self.cdata_elem == "script":
            self.scripts[-1] += data


def write_and_read(path: Path, *, title: str = "run", completions=(), **records) -> PageReader:
    records = {"metrics": [], "evaluations": [], "sft_metrics": [], **records}
    summary = summarize(**records, phase_seconds={"training": 61.0})
    write_report(path, title=title, summary=summary, completions=completions, **records)
    reader = PageReader()
    reader.feed(path.read_text())
    return reader


def full_records() -> dict:
    return {"metrics": METRICS, "evaluations": EVALUATIONS, "sft_metrics": SFT_METRICS}


def test_every_plot_has_its_place_and_its_figure(tmp_path: Path):
    page = write_and_read(tmp_path / "report.html", **full_records())
    assert {f"plot-{key}" for key in ALL_PLOTS} <= page.ids
    figures = json.loads(page.scripts[1])
    assert figures.keys() == ALL_PLOTS
    assert all(figure["data"] for figure in figures.values())


def test_completions_are_counted_in_whole_numbers(tmp_path: Path):
    metrics = [record | {"rollout/completions": 617.0} for record in METRICS]
    write_and_read(tmp_path / "report.html", **full_records() | {"metrics": metrics})
    # 3 steps of 617.
    assert "3 steps, 1,851 completions" in (tmp_path / "report.html").read_text()


def test_the_page_fetches_nothing(tmp_path: Path):
    page = write_and_read(tmp_path / "report.html", completions=[view("x")], **full_records())
    assert page.links == []
    assert "link" not in page.tags and "iframe" not in page.tags
    assert "default-src 'none'" in (tmp_path / "report.html").read_text()


def test_plotly_is_embedded_once(tmp_path: Path):
    page = write_and_read(tmp_path / "report.html", **full_records())
    assert sum("plotly.js v" in script[:200] for script in page.scripts) == 1
    assert len(page.scripts) == 3  # plotly, the figures, the page's own


def test_hostile_text_stays_text(tmp_path: Path):
    page = write_and_read(
        tmp_path / "report.html", title=HOSTILE, completions=[view(HOSTILE)], **full_records()
    )
    assert len(page.scripts) == 3
    assert "img" not in page.tags
    assert page.links == []
    text = (tmp_path / "report.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<script>alert" not in text
    assert text.count("plotly.js v") == 1  # the placeholder in the completion was not filled


def test_a_run_without_records_still_gives_a_page(tmp_path: Path):
    page = write_and_read(tmp_path / "report.html")
    assert not {name for name in page.ids if name.startswith("plot-")}
    assert json.loads(page.scripts[1]) == {}


def test_a_plot_without_numbers_is_left_out():
    plots = make_plots(metrics=[{"step": 1, "policy/entropy": 0.5}], evaluations=[], sft_metrics=[])
    assert [plot.key for plot in plots] == ["entropy"]


def test_numbers_that_are_not_finite_are_not_drawn():
    metrics = [{"step": 1, "policy/entropy": float("nan")}, {"step": 2, "policy/entropy": 0.5}]
    (plot,) = make_plots(metrics=metrics, evaluations=[], sft_metrics=[])
    (trace,) = plot.figure.data
    assert (trace.x, trace.y) == ((2,), (0.5,))


def test_step_time_bars_stack_up_to_the_whole_step():
    metrics = [{"step": 1, "time/update_s": 2.0, "time/wait_s": 1.0, "time/step_s": 3.5}]
    (plot,) = make_plots(metrics=metrics, evaluations=[], sft_metrics=[])
    heights = {trace.name: trace.y[0] for trace in plot.figure.data}
    assert heights == {"update": 2.0, "wait for batch": 1.0, "other": 0.5}  # 3.5 - 2 - 1


def test_a_completion_shows_verdict_versions_and_reward():
    html = completion_html(view("1+1", correct=False))
    assert 'data-step="3" data-verdict="wrong"' in html
    assert "+1.00" in html  # 0.1 + 0.9
    assert "versions 1-9" in html
    # Version 9 takes the tint of version 1, because there are 8.
    assert html.count('class="span v1"') == 2


def test_smoothing_keeps_a_constant_and_averages_neighbours():
    assert smooth([2.0, 2.0, 2.0], half_width=1) == [2.0, 2.0, 2.0]
    assert smooth([0.0, 3.0, 6.0], half_width=1) == [1.5, 3.0, 4.5]  # the ends have two values


@pytest.mark.parametrize(
    ("max_bins", "expected"),
    [(4, [1.0, 2.0, 3.0, 4.0]), (2, [1.5, 3.5]), (3, [1.5, 3.5]), (1, [2.5])],
)
def test_binning_averages_neighbours_into_at_most_that_many(max_bins, expected):
    assert bin_means([1.0, 2.0, 3.0, 4.0], max_bins=max_bins) == expected


def test_every_plot_over_steps_has_a_band_for_each_stage():
    metrics = [{"step": step, "policy/entropy": 0.5} for step in range(1, 9)]
    stages = [
        {"name": "short", "first_step": 0, "end": 4},
        {"name": "long", "first_step": 4, "end": 8},
    ]
    sft = [{"step": 1, "sft/loss": 2.0}]
    plots = make_plots(metrics=metrics, evaluations=[], sft_metrics=sft, stages=stages)
    bands = {plot.key: [(s.x0, s.x1) for s in plot.figure.layout.shapes] for plot in plots}
    assert bands.pop("sft_loss") == []
    assert bands and all(found == [(0, 4), (4, 8)] for found in bands.values())
    names = {note.text for plot in plots for note in plot.figure.layout.annotations}
    assert {"short", "long"} <= names
