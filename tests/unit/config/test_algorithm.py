"""Settings of [algorithm]: the paper's values, unless the configuration says otherwise."""

import re

from megatron_rl.algorithm.losses import surrogates
from megatron_rl.config import AlgorithmConfig, correction_bounds, loss_settings
from megatron_rl.config.algorithm import LOSS_DEFAULTS, CorrectionBounds, LossSettings


def test_the_default_is_the_recipe():
    assert loss_settings(AlgorithmConfig()) == LossSettings(
        clip_low=0.2, clip_high=0.28, advantages="minibatch", aggregation="group"
    )
    assert correction_bounds(AlgorithmConfig()) is None


def test_another_loss_brings_its_own_values():
    assert loss_settings(AlgorithmConfig(loss="gspo")) == LossSettings(
        clip_low=3e-4, clip_high=4e-4, advantages="group", aggregation="sequence"
    )
    assert loss_settings(AlgorithmConfig(loss="dr_grpo")) == LossSettings(
        clip_low=0.2, clip_high=0.2, advantages="none", aggregation="constant"
    )


def test_the_losses_state_the_defaults_that_they_have():
    scales = {"by minibatch": "minibatch", "by group": "group", "undivided": "none"}
    table = re.findall(
        rf"^(\w+) .* ({'|'.join(scales)}) +([\d.e-]+), ([\d.e-]+) +[\d.]+$",
        surrogates.__doc__,
        re.M,
    )
    assert {name for name, *_ in table} == set(LOSS_DEFAULTS)
    for name, scale, low, high in table:
        defaults = LOSS_DEFAULTS[name]
        stated = (scales[scale], float(low), float(high))
        assert stated == (defaults.advantages, defaults.clip_low, defaults.clip_high), name


def test_what_is_given_wins_over_the_papers_value():
    given = AlgorithmConfig(loss="cispo", clip_high=7.0, advantages="none", aggregation="group")
    assert loss_settings(given) == LossSettings(
        clip_low=1.0, clip_high=7.0, advantages="none", aggregation="group"
    )


def test_corrections_bring_their_bounds():
    assert correction_bounds(AlgorithmConfig(correction="icepop")) == CorrectionBounds(
        low=0.5, high=5.0
    )
    given = AlgorithmConfig(correction="tis", correction_high=3.0)
    assert correction_bounds(given) == CorrectionBounds(low=0.0, high=3.0)
