import json
import random

from hypothesis import given
from hypothesis import strategies as st

from megatron_rl.report.downsample import MAX_POINTS, kept_indices
from megatron_rl.report.page import draw_run
from megatron_rl.report.summary import summarize


def test_a_short_curve_stays_whole():
    assert list(kept_indices([1, 2, 3], [5.0, 6.0, 7.0])) == [0, 1, 2]
    assert len(kept_indices(range(MAX_POINTS), [0.0] * MAX_POINTS)) == MAX_POINTS


@given(length=st.integers(MAX_POINTS + 1, 30_000), first=st.integers(0, 10_000), seed=st.integers())
def test_few_points_are_left_with_both_ends_and_every_spike(length: int, first: int, seed: int):
    draw = random.Random(seed)
    values = [0.0] * length
    spike, dip = draw.sample(range(length), 2)
    values[spike], values[dip] = 1.0, -1.0
    kept = kept_indices(range(first, first + length), values)
    assert len(kept) <= MAX_POINTS
    assert {0, length - 1, spike, dip} <= set(kept)
    assert list(kept) == sorted(set(kept))


def test_a_growing_curve_changes_at_its_end_only():
    draw = random.Random(0)
    steps, values = range(1, 9_001), [draw.random() for _ in range(9_000)]
    before = list(kept_indices(steps[:8_500], values[:8_500]))
    after = list(kept_indices(steps, values))
    # Buckets are 32 steps wide: 8,500 steps make 266 of them, of which the last is not full.
    assert before[:-4] == after[: len(before) - 4]


def test_steps_that_were_left_out_make_no_difference():
    steps = [*range(0, 5_000), *range(100_000, 100_010)]
    kept = kept_indices(steps, [float(step) for step in steps])
    assert kept[0] == 0 and kept[-1] == len(steps) - 1
    assert len(kept) <= MAX_POINTS


def test_the_figures_of_ten_thousand_steps_are_small():
    draw = random.Random(0)
    keys = ("reward/total", "policy/entropy", "rollout/length_mean", "time/step_s", "time/update_s")
    metrics = [
        {"step": step, "time": float(step), **{key: draw.random() for key in keys}}
        for step in range(1, 10_001)
    ]
    records = {"metrics": metrics, "evaluations": [], "sft_metrics": []}
    figures = draw_run(summarize(**records, phase_seconds={}), **records).figures
    assert figures.keys() == {"reward", "length", "entropy", "step_time"}
    traces = [trace for figure in figures.values() for trace in figure["data"]]
    assert max(len(trace["x"]) for trace in traces) <= MAX_POINTS
    # 3 lines of 2 traces of 3 or 2 arrays of at most 1,000 numbers, and 2 x 300 bars.
    assert len(json.dumps(figures)) < 200_000
