"""The shipped ablations: one for each question of the recipe, and each can start."""

import functools
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from megatron_rl.errors import DataError
from megatron_rl.programs.ablation.definition import read_definition
from megatron_rl.programs.ablation.plan import Plan, make_plan, validate_runs
from megatron_rl.programs.checks.validate_run import validate_run
from megatron_rl.types import Problem

EXAMPLES = Path(__file__).parents[3] / "examples"
NAMES = {
    "advantages",
    "batch_sizes",
    "clip_high",
    "cross_domain",
    "entropy_bonus",
    "kl_penalty",
    "proportional_reward",
    "sft_and_rl",
    "system_prompt",
}

NUM_LINES = 400
LOOK = functools.partial(validate_run, is_outside=True)


def load_module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A folder where a user has made the demo's data and its parts."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "examples").symlink_to(EXAMPLES)
    data = folder / "runs/demo-data"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES / "demo")
        load_module(EXAMPLES / "demo/make_data.py").write_all(data, seed=0)
    # All of it would be read once for each variant.
    for name in ("train", "sft"):
        path = data / f"{name}.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:NUM_LINES]))
    load_module(EXAMPLES / "ablations/make_parts.py").write_parts(data)
    return folder


def plan_of(name: str, *overrides: str) -> Plan:
    path = EXAMPLES / f"ablations/{name}.toml"
    return make_plan(path, read_definition(path), overrides)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_there_is_one_for_each_question_and_each_names_the_paper():
    paths = {path.stem: path for path in (EXAMPLES / "ablations").glob("*.toml")}
    assert paths.keys() == NAMES
    assert {name for name, path in paths.items() if "2506.10910" not in path.read_text()} == set()


@pytest.mark.parametrize("name", sorted(NAMES))
def test_it_resolves_and_its_variants_differ_in_what_they_are_about(name):
    plan = plan_of(name)
    assert len(plan.runs) == 3 * len({run.variant for run in plan.runs}) >= 6
    assert plan.definition.run_dir.name == name
    assert len(plan.starts) == (0 if name == "system_prompt" else 1)


@pytest.mark.lengthy
@pytest.mark.parametrize("name", sorted(NAMES))
def test_nothing_that_can_be_known_before_stands_in_its_way(name, checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    plan = plan_of(name)
    validate_runs(plan, plan.runs, LOOK)


@pytest.mark.lengthy
def test_a_missing_file_of_a_variant_is_refused_before_anything_starts(
    checkout, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.copytree(checkout / "runs/demo-data", tmp_path / "runs/demo-data")
    (tmp_path / "runs/demo-data/train_no_carry.jsonl").unlink()
    plan = plan_of("cross_domain")
    with pytest.raises(DataError, match=r'variant "no_carry_only": .*train_no_carry\.jsonl'):
        validate_runs(plan, plan.runs, LOOK)


def test_every_batch_size_trains_on_as_many_completions():
    runs = plan_of("batch_sizes").runs
    assert {run.config.num_steps * run.config.rollout.n_batch for run in runs} == {5120}


@pytest.mark.lengthy
def test_the_parts_are_the_whole_and_what_they_are_called(checkout):
    data = checkout / "runs/demo-data"
    for name in ("train", "evaluation"):
        parts = [lines_of(data / f"{name}_{part}.jsonl") for part in ("carry", "no_carry")]
        whole = lines_of(data / f"{name}.jsonl")
        assert sorted(p["id"] for part in parts for p in part) == [p["id"] for p in whole]
        # The ones of 10 to 99 are as often each digit: 45 of 100 pairs carry.
        assert 0.3 < len(parts[0]) / len(whole) < 0.6
    assert {line["kind"] for line in lines_of(data / "train_digits.jsonl")} == {"digits"}
    careful = lines_of(data / "sft_careful.jsonl")
    assert 0.2 < len(careful) / len(lines_of(data / "sft.jsonl")) < 0.4


@pytest.mark.parametrize(
    ("question", "carries"),
    [("Anna has 47 coins and buys 85 more.", True), ("There are 41 pens. Ben adds 18.", False)],
)
def test_a_carry_is_one_from_the_ones(question, carries):
    assert load_module(EXAMPLES / "ablations/make_parts.py").has_carry(question) is carries


@pytest.mark.parametrize(
    ("answer", "share", "is_correct"),
    [("132", 1.0, True), ("122", 2 / 3, False), ("32", 2 / 3, False), ("1132", 3 / 4, False)],
)
def test_the_verifier_of_digits_measures_the_share_that_is_right(answer, share, is_correct):
    verify = load_module(EXAMPLES / "ablations/digits.py").verify
    problem = Problem(id="p", text="47 and 85?", answer="132", kind="digits")
    verdict = verify(problem, f"<think>so</think>\\boxed{{{answer}}} coins.")
    assert verdict.score == pytest.approx(share)
    assert verdict.correct is is_correct
    assert verify(problem, "<think>so</think>none").score is None
