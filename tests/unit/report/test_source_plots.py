"""Curves and lines of the sources of a mixture."""

from megatron_rl.report.cards import make_cards
from megatron_rl.report.plots import make_plots
from megatron_rl.report.sources import by_source, source_lines
from megatron_rl.report.summary import summarize


def record(step: int, **sources: float):
    numbers = {"correct": 0.5, "length_mean": 20, "dropped": 0.25, "groups": 8}
    return {"step": step, "reward/total": 0.3} | {
        f"source/{name.replace('_', '.')}/{metric}": value
        for name, reward in sources.items()
        for metric, value in ({"reward": reward} | numbers).items()
    }


def test_each_source_has_a_curve_from_the_step_at_which_it_first_has_groups():
    records = [record(1, gsm=0.2), record(2, gsm=0.4, code_v1=0.1)]
    plots = {plot.key: plot for plot in make_plots(metrics=records, evaluations=[], sft_metrics=[])}
    figure = plots["source_reward"].figure
    assert {trace.name: list(trace.x) for trace in figure.data} == {"code.v1": [2], "gsm": [1, 2]}
    assert list(figure.data[1].y) == [0.2, 0.4]
    assert "source_trained_share" not in plots  # nothing says it


def test_a_run_without_sources_has_no_plots_of_them():
    records = [{"step": 1, "reward/total": 0.3}]
    keys = [plot.key for plot in make_plots(metrics=records, evaluations=[], sft_metrics=[])]
    assert keys == ["reward"]
    assert source_lines(records[0]) == []


def test_a_line_for_people_on_each_source():
    found = by_source(record(1, code_v1=0.1))
    assert found == {
        "code.v1": {"reward": 0.1, "correct": 0.5, "length_mean": 20, "dropped": 0.25, "groups": 8}
    }
    assert source_lines(record(1, gsm=0.25)) == [
        "source gsm: reward 0.250, solved 50.0%, 20 tokens, 8 groups, 25% dropped"
    ]


def test_standings_are_drawn_and_said():
    standing = {"active": 812, "solved": 1120, "deferred": 68, "reserve": 0}
    numbers = {f"curriculum/{name}": float(n) for name, n in standing.items()}
    of_source = {"source/gsm/active": 12.0, "source/gsm/solved": 3.0}
    records = [{"step": step, **numbers, **of_source} for step in (1, 2)]
    plots = {plot.key: plot for plot in make_plots(metrics=records, evaluations=[], sft_metrics=[])}
    assert [trace.name for trace in plots["curriculum"].figure.data] == list(standing)
    assert list(plots["curriculum"].figure.data[1].y) == [1120, 1120]
    summary = summarize(metrics=records, evaluations=[], sft_metrics=[], phase_seconds={})
    (card,) = [card for card in make_cards(summary) if card.label == "Problems"]
    assert (card.values, card.note) == (("812",), "active; 1,120 solved, 68 deferred")
    assert source_lines(records[0]) == [
        "problems: 812 active, 1,120 solved, 68 deferred, 0 reserve",
        "source gsm: no group settled, 12 active, 3 solved",
    ]
