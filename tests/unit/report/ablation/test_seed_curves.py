"""Curves of several seeds on one axis, against numbers computed by hand and by numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_rl.report.ablation.curves import (
    AXES,
    Curve,
    metric_curve,
    over_seeds,
    score_curve,
    step_places,
)
from tests.unit.report.ablation.recorded_variants import make_evaluation, make_steps


def test_a_step_stands_where_the_prompts_and_tokens_up_to_it_end():
    steps = make_steps([0.1, 0.2, 0.3], groups=4, tokens=100)
    steps[1]["rollout/started_groups"] = 6
    places = {axis: step_places(steps, axis) for axis in AXES}
    assert {axis: list(places[axis].x) for axis in AXES} == {axis: [0, 1, 2, 3] for axis in AXES}
    assert list(places["steps"].y) == [0, 1, 2, 3]
    assert list(places["prompts"].y) == [0, 4, 10, 14]  # 4, 4 + 6, 4 + 6 + 4
    assert list(places["tokens"].y) == [0, 100, 200, 300]
    assert metric_curve(steps, "reward/total", "prompts") == Curve(x=[4, 10, 14], y=[0.1, 0.2, 0.3])


def test_an_axis_that_a_step_did_not_count_is_left_out():
    steps = make_steps([0.1, 0.2])
    del steps[0]["rollout/trained_tokens"]
    assert step_places(steps, "tokens") is None
    assert metric_curve(steps, "reward/total", "tokens") is None
    assert metric_curve(steps, "reward/total", "steps") is not None


def test_numbers_that_are_not_finite_and_metrics_that_are_not_there_are_left_out():
    steps = make_steps([0.1, float("nan"), 0.3])
    assert metric_curve(steps, "reward/total", "steps") == Curve(x=[1, 3], y=[0.1, 0.3])
    assert metric_curve(steps, "policy/kl", "steps") is None
    assert metric_curve([], "reward/total", "steps") is None


def test_an_evaluation_stands_where_the_policy_was_that_sampled_it():
    steps = make_steps([0.1] * 4, groups=4, tokens=100)
    evaluations = [
        make_evaluation("before", 0, 0.2),
        make_evaluation("during", 2, 0.3, version_mean=2.5),
        make_evaluation("after", 4, 0.4, version_mean=4.0),
        make_evaluation("after", 4, 0.5, version_mean=4.0),  # of a later life
    ]
    found = score_curve(evaluations, steps, "pass@1", "tokens")
    assert found == Curve(x=[0, 250, 400], y=[0.2, 0.3, 0.5])  # 250: half-way from 200 to 300
    assert score_curve([], steps, "pass@1", "steps") is None


def test_the_mean_over_seeds_has_the_lowest_and_the_highest_beside_it():
    # Seed 2 at 2 and 4 is half-way between its points: 2 and 4 times 10.
    band = over_seeds([Curve(x=[0, 2, 4], y=[0, 4, 8]), Curve(x=[1, 3, 5], y=[10, 30, 50])])
    assert band.x == [2, 4]
    assert band.mean == [12, 24]  # (4 + 20) / 2, (8 + 40) / 2
    assert (band.low, band.high, band.num_seeds) == ([4, 8], [20, 40], 2)


def test_a_band_ends_where_the_first_seed_ends_and_is_none_without_common_points():
    long, short = Curve(x=[1, 2, 3], y=[1, 1, 1]), Curve(x=[1, 2], y=[3, 3])
    assert over_seeds([long, short]).x == [1, 2]
    assert over_seeds([long, Curve(x=[4, 5], y=[0, 0])]) is None
    # The last evaluation of a run that goes on is drawn, wherever it is.
    going_on = over_seeds([Curve(x=[0, 22, 40], y=[0, 2, 4]), Curve(x=[0, 21], y=[1, 3])])
    assert going_on.x == [0, 21]
    assert over_seeds([]) is None


def test_a_single_seed_is_its_own_band():
    band = over_seeds([Curve(x=[1, 5], y=[2, 3])])
    assert (band.x, band.mean, band.low, band.high) == ([1, 5], [2, 3], [2, 3], [2, 3])


@settings(max_examples=50)
@given(st.data())
def test_seeds_that_share_their_points_are_averaged_as_numpy_does(data):
    points = data.draw(st.integers(1, 30))
    seeds = data.draw(st.integers(1, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    x_X, values_SX = np.cumsum(rng.random(points) + 0.1), rng.normal(size=(seeds, points))
    band = over_seeds([Curve(x=x_X.tolist(), y=row.tolist()) for row in values_SX])
    assert band.x == pytest.approx(x_X)
    assert band.mean == pytest.approx(values_SX.mean(axis=0))
    assert band.low == pytest.approx(values_SX.min(axis=0))
    assert band.high == pytest.approx(values_SX.max(axis=0))


def test_long_curves_are_smoothed_seed_by_seed():
    rewards = [float(step % 2) for step in range(40)]
    curve = metric_curve(make_steps(rewards), "reward/total", "steps")
    # 40 values are averaged with one or two neighbours either way: 1/3 to 3/5, never 0 or 1.
    assert all(0.3 < value < 0.7 for value in curve.y[2:-2])
