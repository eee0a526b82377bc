"""Rules that end a stage, on curves that rise, are noisy, flat or falling."""

import math
import random

import pytest

from megatron_rl.config import (
    EndsWhenConfig,
    LengthStagnates,
    PassRatePlateaus,
    ProblemsSolved,
    RewardPlateaus,
)
from megatron_rl.stage_endings import ending

WINDOW = 20
KEYS = {"length": "rollout/length_mean", "reward": "reward/total"}
RULES = {
    "length": EndsWhenConfig(length_stagnates=LengthStagnates(window=WINDOW, min_growth=0.02)),
    "reward": EndsWhenConfig(reward_plateaus=RewardPlateaus(window=WINDOW, min_gain=0.005)),
}


def noise(seed, scale):
    draw = random.Random(seed)
    return lambda value: value + draw.gauss(0, scale)


def first_end(rules, key, values, *, first_step=0, others=None):
    """Return after how many steps of the stage it is over, None when it never is."""
    records = [{"step": first_step + i + 1, key: v} for i, v in enumerate(values)]
    for count in range(1, len(records) + 1):
        if ending(rules, (others or []) + records[:count], [], first_step=first_step):
            return count
    return None


@pytest.mark.parametrize("kind", RULES)
def test_a_curve_that_rises_never_ends_a_stage(kind):
    assert first_end(RULES[kind], KEYS[kind], [1000.0 * 1.002**i for i in range(300)]) is None


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", RULES)
def test_nor_does_one_that_rises_with_noise_smaller_than_its_growth(kind, seed):
    jitter = noise(seed, 10.0)
    values = [jitter(1000.0 + 5.0 * i) for i in range(200)]
    assert first_end(RULES[kind], KEYS[kind], values) is None


@pytest.mark.parametrize("kind", RULES)
def test_a_flat_curve_ends_it_as_soon_as_there_are_two_windows(kind):
    assert first_end(RULES[kind], KEYS[kind], [500.0] * 100) == 2 * WINDOW


@pytest.mark.parametrize("kind", RULES)
def test_so_does_a_falling_one(kind):
    values = [500.0 - i for i in range(100)]
    assert first_end(RULES[kind], KEYS[kind], values) == 2 * WINDOW


@pytest.mark.parametrize("seed", range(5))
def test_a_curve_that_saturates_ends_it_once_growth_over_a_window_is_too_small(seed):
    jitter = noise(seed, 5.0)
    true = [1000.0 * (1 - math.exp(-i / 40)) for i in range(400)]
    # Without noise, growth over a window of means falls below 2 % here.
    exact = first_end(RULES["length"], KEYS["length"], true)
    assert exact is not None
    found = first_end(RULES["length"], KEYS["length"], [jitter(value) for value in true])
    assert abs(found - exact) < 2 * WINDOW


def test_only_steps_of_the_stage_count():
    before = [{"step": i + 1, KEYS["length"]: 500.0} for i in range(100)]
    rising = [500.0 * 1.01**i for i in range(60)]
    rules = RULES["length"]
    assert first_end(rules, KEYS["length"], rising, first_step=100, others=before) is None
    flat = first_end(rules, KEYS["length"], [500.0] * 60, first_step=100, others=before)
    assert flat == 2 * WINDOW


def test_a_stage_has_its_least_number_of_steps():
    rules = RULES["reward"].model_copy(update={"min_steps": 70})
    assert first_end(rules, KEYS["reward"], [0.5] * 100) == 70


def test_without_rules_a_stage_does_not_end():
    assert first_end(EndsWhenConfig(), KEYS["reward"], [0.5] * 200) is None


@pytest.mark.parametrize(
    ("scores", "is_over"),
    [
        ({0: 0.2, 20: 0.3, 40: 0.4, 60: 0.5}, False),
        ({0: 0.2, 20: 0.3, 40: 0.3, 60: 0.3}, True),
        ({0: 0.2, 20: 0.5, 40: 0.4, 60: 0.3}, True),
        ({20: 0.5}, False),
        ({}, False),
        # Evaluations after the last step are of versions that are not trained yet.
        ({20: 0.5, 60: 0.6, 80: 0.1}, False),
    ],
)
def test_held_out_scores_are_compared_by_window_of_steps(scores, is_over):
    rules = EndsWhenConfig(pass_rate_plateaus=PassRatePlateaus(window=30, min_gain=0.005))
    steps = [{"step": i + 1} for i in range(60)]
    evaluations = [{"version": v, "pass@1": score} for v, score in scores.items()]
    reason = ending(rules, steps, evaluations, first_step=0)
    assert (reason is not None) == is_over
    if reason:
        assert "pass@1 went from" in reason and "min_gain = 0.005" in reason


def test_a_stage_ends_when_too_many_groups_are_solved_whole():
    rules = EndsWhenConfig(problems_solved=ProblemsSolved(window=2, max_share=0.5))

    def step(number, *, solved, trained):
        return {
            "step": number,
            "rollout/dropped_right": solved,
            "rollout/dropped_groups": solved + 1,
            "rollout/kept_groups": trained,
        }

    def is_over(*records):
        return ending(rules, records, [], first_step=0)

    assert is_over(step(1, solved=30, trained=1)) is None  # less than a window
    # 6 solved of 6 + 2 others dropped + 8 trained.
    assert is_over(step(1, solved=3, trained=4), step(2, solved=3, trained=4)) is None
    reason = is_over(step(1, solved=8, trained=4), step(2, solved=8, trained=4))
    assert "62% of the groups" in reason
