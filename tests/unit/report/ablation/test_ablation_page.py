"""The page of an ablation: complete, self-contained, and drawable at any time."""

import json
from pathlib import Path

import pytest

from megatron_rl.report.ablation.curves import AXES
from megatron_rl.report.ablation.page import scores_table, write_ablation_page
from megatron_rl.report.ablation.plots import make_ablation_plots
from megatron_rl.report.ablation.records import VariantRecords
from megatron_rl.report.ablation.scores import score_variants
from tests.unit.report.ablation.recorded_variants import make_run, make_variant
from tests.unit.report.test_page import HOSTILE, PageReader

VARIANTS = [
    make_variant("a", make_run(1, rewards=[0.1, 0.2]), make_run(2, rewards=[0.3, 0.6])),
    make_variant("b", make_run(1, rewards=[0.5, 0.7]), make_run(2, scores=None, stage="failed")),
]


def write_and_read(path: Path, variants: list[VariantRecords], *, title: str = "x") -> PageReader:
    write_ablation_page(
        path,
        title=title,
        question=title,
        subtitle="2 of 4 runs",
        variants=variants,
        scores=score_variants(variants),
    )
    reader = PageReader()
    reader.feed(path.read_text())
    return reader


def test_every_metric_has_a_plot_over_every_axis(tmp_path):
    page = write_and_read(tmp_path / "report.html", VARIANTS)
    figures = json.loads(page.scripts[1])
    drawn = {"reward", "pass_at_1_0", "length", "entropy"}
    assert figures.keys() == {f"{key}-{axis}" for key in drawn for axis in AXES}
    assert {f"plot-{key}" for key in figures} <= page.ids
    text = (tmp_path / "report.html").read_text()
    assert [text.count(f'<section class="plots" data-axis="{axis}"') for axis in AXES] == [1, 1, 1]


def test_a_plot_has_a_line_for_each_variant_and_a_band_where_there_are_seeds():
    reward = make_ablation_plots(VARIANTS, "steps")[0].figure.data
    assert [trace.name for trace in reward] == [None, None, "a", "b"]
    high, low, mean, alone = reward
    assert (low.y, mean.y, high.y) == ((0.1, 0.2), (0.2, 0.4), (0.3, 0.6))
    # The second seed failed, and would cut the curve short.
    assert alone.y == (0.5, 0.7)
    # The page's script shows and hides a variant by this.
    assert [trace.legendgroup for trace in reward] == ["a", "a", "a", "b"]


def test_the_table_says_mean_spread_and_difference():
    variants = [
        make_variant("a", make_run(1, scores=(0.2, 0.5)), make_run(2, scores=(0.2, 0.7))),
        make_variant("b", make_run(1, scores=(0.2, 0.6)), make_run(2, scores=(0.2, 0.9))),
    ]
    table = scores_table(score_variants(variants))
    # Deviations of (.5, .7) and (.6, .9): .1414, .2121; differences .1, .2: mean .15, error .05.
    assert "<td>a</td><td>2 of 2</td><td>20.0%</td><td>60.0% ± 14.1</td><td></td>" in table
    assert "<td>75.0% ± 21.2</td><td>+15.0 ± 5.0 (2 seeds)</td>" in table


@pytest.mark.parametrize(
    "variants",
    [[make_variant("a")], [make_variant("a", make_run(1, rewards=[], scores=None, stage="begun"))]],
)
def test_an_ablation_that_has_recorded_nothing_still_gives_a_page(tmp_path, variants):
    page = write_and_read(tmp_path / "report.html", variants)
    assert json.loads(page.scripts[1]) == {}
    assert "No metrics yet." in (tmp_path / "report.html").read_text()


def test_the_page_fetches_nothing_and_hostile_text_stays_text(tmp_path):
    page = write_and_read(
        tmp_path / "report.html", [*VARIANTS, make_variant(HOSTILE)], title=HOSTILE
    )
    assert page.links == [] and "img" not in page.tags
    assert len(page.scripts) == 3  # plotly, the figures, the page's own
    text = (tmp_path / "report.html").read_text()
    assert "default-src 'none'" in text and "{{title}}" not in text
