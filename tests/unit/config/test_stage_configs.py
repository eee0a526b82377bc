"""Stages of a run: what each changes, where each begins, and what is refused before the first."""

import json
from pathlib import Path

import pytest

from megatron_rl.config import (
    EndsWhenConfig,
    RewardPlateaus,
    load_config,
    optimizer_steps,
    planned_stages,
    resolve,
    staged_config,
)
from megatron_rl.errors import ConfigError

RUN = """
run_dir = "runs/x"
[model]
path = "m"
[data]
train = "easy.jsonl"
[rollout]
n_batch = 64
n_minibatch = 32
group_size = 4
[learner]
token_budget = 9000
"""
STAGES = """
[[stages]]
name = "first"
num_steps = 10
ends_when.reward_plateaus = {window = 3}
[[stages]]
name = "second"
num_steps = 5
[stages.data]
train = "hard.jsonl"
[stages.generators.sampling]
max_new_tokens = 8000
[stages.rollout]
n_batch = 32
"""


def load(folder, text, *overrides):
    path = folder / "run.toml"
    path.write_text(text)
    return load_config(path, overrides)


def test_a_stage_is_the_run_with_what_it_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load(tmp_path, RUN + STAGES)
    assert config.num_steps == 15
    first, second = planned_stages(config)
    assert first.data.train == tmp_path / "easy.jsonl"
    assert (first.num_steps, first.rollout.n_batch) == (10, 64)
    assert (first.stage.name, first.stage.number, first.stage.of) == ("first", 1, 2)
    assert (first.stage.first_step, first.stage.is_last) == (0, False)
    assert first.stage.ends_when.reward_plateaus == RewardPlateaus(window=3)
    assert second.data.train == tmp_path / "hard.jsonl"
    assert (second.num_steps, second.rollout.n_batch) == (15, 32)
    assert second.generators.sampling.max_new_tokens == 8000
    assert second.generators.sampling.temperature == config.generators.sampling.temperature
    assert (second.stage.first_step, second.stage.is_last) == (10, True)
    # 10 batches of two optimiser steps, 5 of one.
    assert first.stage.optimizer_steps == second.stage.optimizer_steps == 25
    assert optimizer_steps(config) == optimizer_steps(first) == 25


def test_a_stage_that_was_over_sooner_moves_those_after_it(tmp_path):
    config = load(tmp_path, RUN + STAGES)
    first, second = planned_stages(config, [7])
    assert (first.num_steps, first.stage.ends_when) == (7, EndsWhenConfig())
    assert (second.stage.first_step, second.num_steps) == (7, 12)
    assert staged_config(config, 2, first_step=7, end=12) == second


def test_a_run_without_stages_is_its_only_one(tmp_path):
    config = load(tmp_path, "num_steps = 3\n" + RUN)
    assert planned_stages(config) == (config,)
    assert optimizer_steps(config) == 6


def test_stages_are_the_same_when_a_run_is_resumed_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load(tmp_path, RUN + STAGES)
    monkeypatch.chdir("/")
    again = resolve(json.loads(config.model_dump_json()))
    assert again == config
    assert planned_stages(again) == planned_stages(config)
    one = planned_stages(config)[1]
    assert resolve(json.loads(one.model_dump_json())) == one


def test_a_key_of_a_stage_is_set_from_the_command_line(tmp_path):
    config = load(
        tmp_path, RUN + STAGES, "stages.second.rollout.n_batch=64", "stages.0.num_steps=6"
    )
    assert config.num_steps == 11
    assert planned_stages(config)[1].rollout.n_batch == 64


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            ("n_batch = 32\n", "n_bach = 32\n"),
            'stage "second": unknown key rollout.n_bach; did you',
        ),
        (("n_batch = 32\n", "n_batch = 30\n"), 'stage "second": rollout.n_batch (30)'),
        (('name = "second"', 'name = "first"'), 'two have the name "first"'),
        (('name = "second"', 'name = "The second"'), "stages.1.name"),
        (("[stages.data]", "[stages.model]\npath = 'o'\n[stages.data]"), "the policy goes on"),
        (("num_steps = 5", "seed = 5\nnum_steps = 5"), "seed cannot differ in a stage: the curr"),
        (("num_steps = 5", ""), "missing key stages.1.num_steps"),
        (("window = 3", "windw = 3"), "unknown key stages.0.ends_when.reward_plateaus.windw"),
        (
            ("[stages.rollout]", "[stages.learner]\ntoken_budget = 8500\n[stages.rollout]"),
            'learner.token_budget (8500) of "second" must be >= 9000, that of "first"',
        ),
        (("\nrun_dir", "\nnum_steps = 12\nrun_dir"), "num_steps (12) must be the sum of the stag"),
        (
            ("max_new_tokens = 8000", "temperature = 0.6"),
            'generators.sampling.temperature (0.6) of "second" must be 1.0, that of "first", which',
        ),
        (
            ("window = 3", "window = 6"),
            'stage "first": ends_when.reward_plateaus.window (6) must be <= 5, half of the stage',
        ),
        (
            ("reward_plateaus", "pass_rate_plateaus"),
            "pass_rate_plateaus.window (3) must hold an evaluation of the first held-out set, "
            "which is sampled never",
        ),
        (
            ("reward_plateaus = {window = 3}", "problems_solved = {window = 3}"),
            'rollout.drop_zero_advantage is "never"; remove one',
        ),
    ],
)
def test_what_is_wrong_with_a_stage_is_said_before_the_first_begins(tmp_path, change, complaint):
    text = RUN + STAGES
    assert change[0] in text
    if "problems_solved" in change[1]:
        text = text.replace("group_size = 4", 'group_size = 4\ndrop_zero_advantage = "never"')
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, text.replace(change[0], change[1], 1))
    assert complaint in str(refused.value), refused.value


def test_paths_of_stages_are_found_in_the_configuration_that_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load(tmp_path, RUN + STAGES)
    written = json.loads(config.model_dump_json())
    assert Path(written["stages"][1]["settings"]["data"]["train"]) == tmp_path / "hard.jsonl"
