"""The runs of an ablation: where each begins, which are refused, which are chosen."""

import functools
from pathlib import Path

import pytest

from megatron_rl.errors import ConfigError, ModelError
from megatron_rl.programs.ablate import describe_plan, task_command
from megatron_rl.programs.ablation.definition import read_definition
from megatron_rl.programs.ablation.plan import choose_runs, make_plan, validate_runs
from megatron_rl.programs.ablation.settings_files import (
    settings_file,
    settings_in_use,
    write_settings,
)
from megatron_rl.programs.checks.validate_run import validate_run

BASE = """
run_dir = "elsewhere"
num_steps = 3
seed = 7
[model]
path = "model"
init = "random"
[data]
train = "train.jsonl"
[rollout]
n_batch = 64
"""
SFT = '[sft]\ndata = "pairs.jsonl"\nnum_epochs = 2\n'
LOOK = functools.partial(validate_run, is_outside=True)
TWO = '[[variants]]\nname = "a"\n[[variants]]\nname = "b"\nset = {algorithm.clip_high = 0.5}\n'


def plan_of(folder: Path, variants: str = TWO, *, sft: bool = True, head: str = "", over=()):
    (folder / "base.toml").write_text(BASE + (SFT if sft else ""))
    path = folder / "x.toml"
    path.write_text(
        f'base = "base.toml"\nrun_dir = "{folder}/runs"\nseeds = [1, 2]\n{head}\n{variants}'
    )
    return make_plan(path, read_definition(path), over)


def refusal(folder: Path, variants: str, **rest) -> str:
    with pytest.raises(ConfigError) as refused:
        plan_of(folder, variants, **rest)
    return str(refused.value)


def test_all_variants_run_with_the_first_seed_before_any_runs_with_the_second(tmp_path):
    plan = plan_of(tmp_path)
    assert [run.name for run in plan.runs] == ["a/seed_1", "b/seed_1", "a/seed_2", "b/seed_2"]
    for run in plan.runs:
        assert run.config.run_dir == tmp_path / "runs" / run.name
        assert run.config.seed == run.seed
    assert [run.config.algorithm.clip_high for run in plan.runs] == [None, 0.5, None, 0.5]


def test_one_start_of_the_bases_seed_serves_all_runs(tmp_path):
    plan = plan_of(tmp_path)
    (start,) = plan.starts
    assert start.config.seed == 7 and start.config.run_dir == tmp_path / "runs/start/seed_7"
    assert start.config.sft is not None and start.config.model.init == "random"
    for run in plan.runs:
        assert run.config.model.path == start.weights == tmp_path / "runs/start/seed_7/sft/hf"
        assert run.config.model.init == "pretrained"
        assert run.config.sft is None


def test_a_start_of_each_seed_serves_the_runs_of_that_seed(tmp_path):
    plan = plan_of(tmp_path, head="start_per_seed = true")
    assert [start.config.seed for start in plan.starts] == [1, 2]
    assert {run.name: run.start.name for run in plan.runs} == {
        f"{variant}/seed_{seed}": f"start/seed_{seed}" for variant in "ab" for seed in (1, 2)
    }


def test_a_base_without_cold_start_begins_at_its_model(tmp_path):
    plan = plan_of(tmp_path, sft=False)
    assert plan.starts == [] and {run.start for run in plan.runs} == {None}
    assert {run.config.model.path.name for run in plan.runs} == {"model"}


def test_a_variant_may_train_on_pairs_of_its_own_on_top_of_the_start(tmp_path):
    variants = TWO + '[[variants]]\nname = "c"\nset = {sft.data = "other.jsonl"}\n'
    plan = plan_of(tmp_path, variants)
    run = plan.of_variant("c")[0]
    assert run.start is not None and run.config.model.path == run.start.weights
    assert run.config.sft.data.name == "other.jsonl"
    assert run.config.sft.num_epochs == 2  # what the variant does not set is the base's


def test_a_variant_may_begin_at_the_model_with_or_without_a_cold_start_of_its_own(tmp_path):
    variants = (
        '[[variants]]\nname = "own"\nbegins_at = "model"\n'
        '[[variants]]\nname = "none"\nbegins_at = "model"\nset = {sft = "null"}\n'
    )
    plan = plan_of(tmp_path, variants)
    assert plan.starts == []
    own, none = plan.runs[:2]
    assert own.config.sft is not None and none.config.sft is None
    assert own.config.model.path.name == none.config.model.path.name == "model"
    assert own.config.model.init == "random"


def test_overrides_of_the_base_reach_start_and_runs_and_a_variant_has_the_last_word(tmp_path):
    head = "base_overrides = {algorithm.clip_high = 0.3, learner.token_budget = 9000}"
    plan = plan_of(tmp_path, head=head, over=["num_steps=5"])
    assert [run.config.algorithm.clip_high for run in plan.runs[:2]] == [0.3, 0.5]
    everything = [plan.starts[0].config, *(run.config for run in plan.runs)]
    assert {(c.learner.token_budget, c.num_steps) for c in everything} == {(9000, 5)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("algorithm.clip_hihg = 0.3", "unknown key algorithm.clip_hihg; did you mean algorithm.cl"),
        ("rollout.n_batch = 30", "rollout.n_batch (30) must be a multiple of rollout.group_size"),
        ("algorithm.clip_high = -1.0", "algorithm.clip_high = -1.0"),
        (
            'model.path = "x"',
            "model.path ('x') cannot be set by a variant that begins at the start",
        ),
    ],
)
def test_a_variant_that_cannot_run_is_named(tmp_path, settings, message):
    found = refusal(tmp_path, TWO + f'[[variants]]\nname = "c"\nset = {{{settings}}}\n')
    assert f'{tmp_path}/x.toml: variant "c": ' in found
    assert message in found


@pytest.mark.parametrize(
    "settings",
    [
        "algorithm.clip_high = 0.5",
        "algorithm = {clip_high = 0.5, clip_low = 0.2}",  # Magistral's own
        "algorithm.clip_high = 0.5, rollout.n_minibatch = 64",  # what it is when not given
    ],
)
def test_two_variants_that_are_the_same_run_are_refused(tmp_path, settings):
    found = refusal(tmp_path, TWO + f'[[variants]]\nname = "c"\nset = {{{settings}}}\n')
    assert 'variant "c" is the same run as variant "b"' in found


def test_a_base_that_cannot_run_is_named(tmp_path):
    assert "base.toml: num_steps = -1" in refusal(tmp_path, TWO, over=["num_steps=-1"])


def test_validation_says_which_variant_train_would_refuse(tmp_path):
    plan = plan_of(tmp_path)
    with pytest.raises(ModelError, match=r"x\.toml: the start: .*model"):
        validate_runs(plan, plan.runs, LOOK)
    plan = plan_of(tmp_path, sft=False)
    with pytest.raises(ModelError, match=r'x\.toml: variant "b": .*model'):
        validate_runs(plan, plan.of_variant("b"), LOOK)
    validate_runs(plan, [], LOOK)  # what is complete is not looked at


def test_runs_are_chosen_by_variant_or_with_their_seed_in_the_plans_order(tmp_path):
    plan = plan_of(tmp_path)
    chosen = choose_runs(plan, ["b/2", "a"])
    assert [run.name for run in chosen] == ["a/seed_1", "a/seed_2", "b/seed_2"]
    with pytest.raises(ConfigError, match=r"--only b/3: there is no such run; did you mean b/2\?"):
        choose_runs(plan, ["b/3"])
    with pytest.raises(ConfigError, match=r"--only zzzz: .*; variants: a, b"):
        choose_runs(plan, ["zzzz"])


def test_a_task_is_a_job_in_a_slurm_job_and_waits_for_its_start(tmp_path):
    plan = plan_of(tmp_path)
    settings = settings_file(plan.starts[0].config)
    assert task_command(plan, {}, task=None, start=0) == ["train", str(settings), "--only", "sft"]
    with pytest.raises(ConfigError, match=r"begins at start/seed_7, which is not begun; .*: --st"):
        task_command(plan, {}, task=1, start=None)
    chosen = plan_of(tmp_path, over=['sft.select="evaluation"', "data.evaluation=train.jsonl"])
    with pytest.raises(ConfigError, match=r'sft.select \("evaluation"\) needs a server'):
        task_command(chosen, {"SLURM_JOB_ID": "12"}, task=None, start=0)
    plan.starts[0].weights.mkdir(parents=True)
    slurm = {"SLURM_JOB_ID": "12"}
    own = str(tmp_path / "runs/b/seed_1.json")
    assert task_command(plan, slurm, task=1, start=None) == ["job", own]
    with pytest.raises(ConfigError, match=r"--task 4: there are 4 runs, from 0; see --list"):
        task_command(plan, slurm, task=4, start=None)
    assert "    3  b/seed_2: not begun" in describe_plan(plan)


def test_a_run_that_was_begun_with_other_settings_is_refused_with_both_values(tmp_path):
    configs = [run.config for run in plan_of(tmp_path).runs]
    write_settings(configs)
    changed = [run.config for run in plan_of(tmp_path, over=["rollout.n_async=128"]).runs]
    write_settings(changed)  # none of them has begun
    (tmp_path / "runs/b/seed_1").mkdir(parents=True)
    write_settings(changed)
    with pytest.raises(ConfigError) as refused:
        write_settings(configs)
    assert str(refused.value).startswith(
        f"{tmp_path}/runs/b/seed_1 was begun with other settings: rollout.n_async was 128, and is "
        "4096 now. Set them back, --set included, or remove the folder"
    )
    assert settings_in_use(configs[1]).rollout.n_async == 128  # b/seed_1 has begun
    assert settings_in_use(configs[0]) is configs[0]
    longer = plan_of(tmp_path, over=["rollout.n_async=128", "num_steps=9"]).runs
    write_settings([run.config for run in longer])
