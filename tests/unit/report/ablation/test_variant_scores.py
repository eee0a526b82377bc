"""Scores of variants: spreads over seeds and paired differences, against numpy."""

import numpy as np
import pytest

from megatron_rl.report.ablation.scores import (
    Spread,
    paired_difference,
    score_variants,
    spread_over,
)
from tests.unit.report.ablation.recorded_variants import make_evaluation, make_run, make_variant


def test_a_spread_is_the_sample_standard_deviation_over_seeds():
    values = [0.2, 0.5, 0.9]
    found = spread_over(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.spread == pytest.approx(np.std(values, ddof=1))
    assert found.num_seeds == 3
    assert spread_over([0.4]) == Spread(mean=0.4, spread=None, num_seeds=1)
    assert spread_over([]) is None


def test_a_difference_is_over_the_seeds_that_both_have_with_its_standard_error():
    values = {1: 0.5, 2: 0.9, 3: 0.6, 9: 0.0}
    reference = {1: 0.4, 2: 0.6, 3: 0.4, 8: 1.0}
    found = paired_difference(values, reference)
    differences = [0.1, 0.3, 0.2]
    assert found.mean == pytest.approx(np.mean(differences))
    assert found.spread == pytest.approx(np.std(differences, ddof=1) / np.sqrt(3))
    assert found.num_seeds == 3
    assert paired_difference({1: 0.5}, {2: 0.5}) is None


def test_what_a_seed_does_to_both_variants_cancels():
    values = {seed: 0.1 * seed + 0.05 for seed in range(1, 6)}
    reference = {seed: 0.1 * seed for seed in range(1, 6)}
    found = paired_difference(values, reference)
    assert found.mean == pytest.approx(0.05)
    assert found.spread == pytest.approx(0, abs=1e-12)


def test_only_complete_runs_have_a_final_score():
    variants = [
        make_variant(
            "a",
            make_run(1, scores=(0.2, 0.6)),
            make_run(2, scores=(0.4, 0.9), stage="begun"),
            make_run(3, scores=None, stage="failed"),
        )
    ]
    (row,) = score_variants(variants)
    assert (row.num_done, row.num_runs) == (1, 3)
    scores = row.sets[None]
    assert scores.after == Spread(mean=0.6, spread=None, num_seeds=1)
    assert scores.before.mean == pytest.approx(0.3)  # (0.2 + 0.4) / 2
    assert scores.difference is None
    assert row.numbers["tokens"].mean == 200  # two steps of 100
    assert row.numbers["prompts"].mean == 8
    assert row.numbers["reward"].mean == 0.2  # the last tenth of two steps is the last one


def test_a_variant_is_compared_with_the_first_seed_by_seed():
    variants = [
        make_variant("a", make_run(1, scores=(0.2, 0.5)), make_run(2, scores=(0.2, 0.7))),
        make_variant("b", make_run(2, scores=(0.2, 0.8))),
        make_variant("sft", start_of="a"),
    ]
    first, second, start = score_variants(variants)
    assert first.sets[None].difference is None
    assert second.sets[None].difference.mean == pytest.approx(0.1)  # seed 2 alone
    assert second.sets[None].difference.num_seeds == 1
    assert start.sets[None].after.mean == pytest.approx(0.2)
    assert start.sets[None].difference.mean == pytest.approx(-0.4)  # (-0.3 - 0.5) / 2
    assert start.num_runs == 0


def test_every_held_out_set_has_scores_of_its_own():
    run = make_run(1, scores=None)
    evaluations = [
        make_evaluation("after", 2, 0.5, set="aime24", place=0),
        make_evaluation("after", 2, 0.7, set="math500", place=1),
    ]
    variants = [make_variant("a", type(run)(**fields_of(run) | {"evaluations": evaluations}))]
    (row,) = score_variants(variants)
    assert {name: scores.after.mean for name, scores in row.sets.items()} == {
        "aime24": 0.5,
        "math500": 0.7,
    }


def fields_of(run) -> dict:
    return {name: getattr(run, name) for name in type(run).__slots__}


def test_nothing_recorded_yet_is_no_score():
    (row,) = score_variants([make_variant("a")])
    assert row.sets == {} and set(row.numbers.values()) == {None}
