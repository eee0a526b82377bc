"""The 24B example: every stage on every number of nodes is a plan that fits."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from megatron_rl.config import held_out_sets, load_config, planned_stages, resolve
from megatron_rl.errors import ConfigError
from megatron_rl.programs.slurm_job.plan_text import describe_plan

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples/magistral_24b"
MODEL = ROOT / "tests/released/Mistral-Small-24B"  # its config.json alone
STAGES = (1, 2, 3)
SIZES = {8: (16, 24), 16: (32, 48), 32: (64, 96)}
"""Nodes: learner ranks and servers, as README.md has them."""


@pytest.fixture
def long_model(tmp_path: Path) -> Path:
    """The same model trained for long contexts, as README.md asks for in stage 3."""
    facts = json.loads((MODEL / "config.json").read_text()) | {"max_position_embeddings": 131072}
    (tmp_path / "long").mkdir()
    (tmp_path / "long/config.json").write_text(json.dumps(facts))
    return tmp_path / "long"


def stage(number: int, *, nodes: int = 8, model: Path = MODEL):
    ranks, servers = SIZES[nodes]
    overrides = {
        "model.path": model,
        "launch.nodes": nodes,
        "learner.num_processes": ranks,
        "generators.num_servers": servers,
    }
    path = EXAMPLE / f"stage{number}.toml"
    return load_config(path, [f"{key}={value}" for key, value in overrides.items()])


@pytest.mark.parametrize("nodes", SIZES)
@pytest.mark.parametrize("number", STAGES)
def test_every_gpu_is_used_and_the_learner_fits_by_the_estimate(
    number: int, nodes: int, long_model: Path
):
    plan = describe_plan(stage(number, nodes=nodes, model=long_model))
    assert f"nodes: {nodes}, GPUs in use: {8 * nodes} of {8 * nodes}" in plan
    assert "warning" not in plan
    assert f"learn     n1,n2{'' if nodes == 8 else ',n3'}" in plan


def test_the_last_stage_is_refused_with_the_released_model_which_has_fewer_positions():
    with pytest.raises(ConfigError, match=r"context_length \(43008\) must be <= .* \(32768\)"):
        describe_plan(stage(3))


def test_the_stages_are_those_of_the_recipe():
    runs = [stage(number) for number in STAGES]
    limits = [run.generators.sampling.max_new_tokens - run.reward.length_cache for run in runs]
    assert limits == [16 * 1024, 24 * 1024, 32 * 1024]
    assert [run.rollout.n_batch for run in runs] == [8192, 4096, 2048]
    for run in runs:
        assert run.rollout.n_async / run.rollout.n_batch <= 2
        assert run.rollout.n_minibatch is None
        assert run.generators.sampling.temperature == 1.0
        assert run.algorithm.clip_high == 0.3


def test_held_out_sets_are_sampled_as_the_recipe_says():
    wanted = {"aime24": (64, 0.7, 1.0), "aime25": (64, 0.7, 1.0), "livecodebench": (16, 0.7, 0.95)}
    for run in map(stage, STAGES):
        sets = {s.name: (s.num_samples, s.temperature, s.top_p) for s in held_out_sets(run)}
        assert sets == wanted
    assert {s.max_new_tokens for s in held_out_sets(stage(3))} == {40 * 1024}


def test_the_settings_of_the_page_on_the_recipe_are_valid_and_the_same():
    lines = (ROOT / "docs/recipe.md").read_text().splitlines()
    block = lines[lines.index("    [evaluation]") :]
    block = block[: next(i for i, line in enumerate(block) if line and line[0] != " ")]
    table = tomllib.loads("\n".join(line.removeprefix("    ") for line in block))
    facts = {"run_dir": "run", "num_steps": 1, "model": {"path": "m"}, "data": {"train": "t"}}
    sets = {s.name: s for s in held_out_sets(resolve(facts | table))}
    assert list(sets) == ["aime24", "aime25", "livecodebench", "math500", "gpqa"]
    for in_stage in held_out_sets(stage(3)):
        on_page = sets[in_stage.name]
        assert on_page.sampling_params == in_stage.sampling_params
        assert on_page.num_samples == in_stage.num_samples


def test_each_stage_starts_from_the_model_that_the_one_before_it_leaves():
    for number in (2, 3):
        before = load_config(EXAMPLE / f"stage{number - 1}.toml")
        assert load_config(EXAMPLE / f"stage{number}.toml").model.path == before.run_dir / "hf"


def test_a_row_and_a_server_hold_the_longest_completion_with_its_prompt():
    for run in map(stage, STAGES):
        longest = run.generators.sampling.max_new_tokens + 2048
        assert run.learner.token_budget == run.generators.context_length == longest


def test_the_cold_start_that_is_commented_out_is_a_valid_one(tmp_path: Path):
    text = (EXAMPLE / "stage1.toml").read_text()
    table = text[text.index("# [sft]") : text.index("[launch]")]
    lines = [line.removeprefix("# ") for line in table.splitlines()]
    (tmp_path / "sft.toml").write_text(text.replace(table, "\n".join([*lines, ""])))
    sft = load_config(tmp_path / "sft.toml").sft
    assert sft is not None
    assert sft.num_epochs == 4


def test_every_command_of_the_readme_plans(capsys, long_model):
    from megatron_rl.cli import main

    readme = (EXAMPLE / "README.md").read_text().replace("\\\n", " ")
    commands = [line.split() for line in readme.splitlines() if "megatron-rl plan " in line]
    assert len(commands) >= 3
    for words in commands:
        arguments = [
            str(ROOT / w) if w.endswith(".toml") else w for w in words[words.index("plan") :]
        ]
        assert main([*arguments, "--set", f"model.path={long_model}"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("nodes", SIZES)
@pytest.mark.parametrize("number", STAGES)
def test_a_dry_run_prints_plan_and_script_and_submits_nothing(
    number: int, nodes: int, tmp_path: Path, long_model: Path
):
    ranks, servers = SIZES[nodes]
    command = [
        *(sys.executable, ROOT / "launchers/slurm/submit.py", EXAMPLE / f"stage{number}.toml"),
        *("--dry-run", "--set", f"model.path={long_model}", "--set", f"run_dir={tmp_path / 'run'}"),
        *("--nodes", str(nodes), "--set", f"learner.num_processes={ranks}"),
        *("--set", f"generators.num_servers={servers}"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "memory of the fullest rank" in done.stdout
    assert f"#SBATCH --nodes={nodes}\n" in done.stdout
    assert "#SBATCH --time=24:00:00\n" in done.stdout
    assert "#SBATCH --signal=B:USR1@1800\n" in done.stdout
    assert not (tmp_path / "run").exists()


def campaign(model: Path):
    return load_config(EXAMPLE / "campaign.toml", [f"model.path={model}"])


def test_the_campaign_has_the_stages_of_the_three_files(long_model: Path):
    apart = {"run_dir", "num_steps", "stage", "stages"}
    planned = planned_stages(campaign(long_model))
    for number, found in enumerate(planned, start=1):
        alone = stage(number, model=long_model)
        assert found.model_dump(exclude=apart) == alone.model_dump(exclude=apart)
        assert found.num_steps - found.stage.first_step == alone.num_steps
    plan = describe_plan(campaign(long_model))
    for heading in ("stage 1 of 3, 16k:", "stage 2 of 3, 24k:", "stage 3 of 3, 32k:"):
        assert heading in plan
    assert "warning" not in plan


def test_a_last_stage_that_cannot_be_is_refused_before_the_first_begins():
    complaint = r'stage "32k": .*context_length \(43008\) must be <= .* \(32768\)'
    with pytest.raises(ConfigError, match=complaint):
        describe_plan(campaign(MODEL))
