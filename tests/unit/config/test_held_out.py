"""Held-out sets: what each key falls back to, how one is overridden, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_rl.cli import main
from megatron_rl.config import held_out_sets, load_config, resolve, with_filled_sets
from megatron_rl.errors import ConfigError


def config_of(*, data: dict[str, Any] | None = None, **evaluation: Any):
    return resolve(
        {
            "run_dir": "run",
            "num_steps": 1,
            "model": {"path": "model"},
            "data": {"train": "train.jsonl", **(data or {})},
            "generators": {"context_length": 5000, "sampling": {"max_new_tokens": 3000}},
            "evaluation": json.loads(json.dumps(evaluation)),
        }
    )


def test_the_form_without_sets_is_one_set_without_a_name():
    config = config_of(
        data={"evaluation": "held.jsonl", "evaluation_rows": ":9", "system_prompt": "none"},
        num_samples=4,
        sampling={"top_k": 5, "max_new_tokens": 2000},
    )
    (only,) = held_out_sets(config)
    assert (only.name, only.title, only.rows) == (None, "data.evaluation", ":9")
    assert only.path == Path("held.jsonl").absolute()
    assert only.sampling_params == {
        "temperature": 0.7,
        "top_p": 1.0,
        "max_new_tokens": 2000,
        "top_k": 5,
    }
    assert (only.every, only.num_samples, only.system_prompt) == (20, 4, "none")
    assert held_out_sets(config_of()) == ()


def test_what_a_set_does_not_say_is_that_of_all_evaluations():
    config = config_of(
        data={"columns": {"preset": "verl"}, "system_prompt": "none"},
        every=5,
        num_samples=16,
        top_p=0.95,
        sampling={"min_p": 0.1},
        sets=[
            {"name": "aime24", "path": "aime.jsonl"},
            {
                "name": "code", "path": "code.jsonl", "every": 0, "num_samples": 2,
                "temperature": 0.5, "top_p": 0.5, "max_new_tokens": 4000, "sampling": {},
                "system_prompt": "default", "columns": {}, "rows": "3:", "split_by": "subject",
            },
        ],
    )  # fmt: skip
    first, second = held_out_sets(config)
    assert (first.every, first.num_samples, first.temperature) == (5, 16, 0.7)
    assert first.sampling_params["min_p"] == 0.1 and first.max_new_tokens == 3000
    assert first.columns is not None and first.columns.preset == "verl"
    assert (first.system_prompt, first.rows, first.split_by) == ("none", None, None)
    assert (second.every, second.num_samples, second.system_prompt) == (0, 2, "default")
    assert second.sampling_params == {"temperature": 0.5, "top_p": 0.5, "max_new_tokens": 4000}
    assert second.columns is not None and second.columns.preset is None
    assert (second.rows, second.split_by) == ("3:", "subject")


def test_the_set_without_a_name_comes_first():
    named = {"name": "aime24", "path": "a.jsonl"}
    config = config_of(data={"evaluation": "held.jsonl"}, sets=[named])
    assert [held_out.name for held_out in held_out_sets(config)] == [None, "aime24"]


def test_a_filled_configuration_says_all_and_means_the_same():
    config = config_of(num_samples=16, sets=[{"name": "a", "path": "a.jsonl"}])
    filled = resolve(json.loads(with_filled_sets(config).model_dump_json()))
    assert filled.evaluation.sets[0].num_samples == 16
    assert filled.evaluation.sets[0].max_new_tokens == 3000
    (before,), (after,) = held_out_sets(config), held_out_sets(filled)
    assert before.sampling_params == after.sampling_params
    assert (before.path, before.every, before.columns) == (after.path, after.every, after.columns)


def write_config(folder: Path) -> Path:
    path = folder / "run.toml"
    path.write_text(
        'run_dir = "run"\nnum_steps = 1\nmodel.path = "model"\ndata.train = "train.jsonl"\n'
        '[[evaluation.sets]]\nname = "aime24"\npath = "a.jsonl"\n'
        '[[evaluation.sets]]\nname = "code"\npath = "c.jsonl"\nnum_samples = 16\n'
    )
    return path


def test_one_key_of_one_set_is_overridden_by_the_name_or_the_number_of_the_set(tmp_path: Path):
    overrides = ["evaluation.sets.code.num_samples=3", "evaluation.sets.0.top_p=0.5"]
    first, second = load_config(write_config(tmp_path), overrides).evaluation.sets
    assert (first.num_samples, first.top_p) == (None, 0.5)
    assert (second.num_samples, second.top_p) == (3, None)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluation.sets.aime25.num_samples=3", "there is no entry aime25"),
        ("evaluation.sets.code=3", "expected a key of entry code"),
        ("evaluation.sets.code.num_sample=3", "did you mean evaluation.sets.1.num_samples?"),
    ],
)
def test_an_override_that_names_nothing_is_refused(tmp_path: Path, override, message):
    with pytest.raises(ConfigError) as error:
        load_config(write_config(tmp_path), [override])
    assert message in str(error.value)


def test_a_dry_run_prints_what_each_set_will_use(tmp_path: Path, capsys):
    arguments = ["train", str(write_config(tmp_path)), "--dry-run", "--set"]
    assert main([*arguments, "evaluation.num_samples=5"]) == 0
    sets = json.loads(capsys.readouterr().out)["evaluation"]["sets"]
    assert [(s["name"], s["num_samples"], s["temperature"]) for s in sets] == [
        ("aime24", 5, 0.7),
        ("code", 16, 0.7),
    ]


SET = {"name": "a", "path": "a.jsonl"}


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"sets": [SET, SET]}, 'evaluation.sets.name ("a") must be unique: metrics and files'),
        ({"sets": [SET | {"name": "a/b"}]}, "evaluation.sets.0.name = 'a/b'"),
        ({"sets": [{"path": "a.jsonl"}]}, "missing key evaluation.sets.0.name"),
        ({"sets": [{"name": "a"}]}, "missing key evaluation.sets.0.path"),
        ({"sets": [SET | {"num_sample": 3}]}, "did you mean evaluation.sets.0.num_samples?"),
        ({"sets": [SET | {"num_samples": 0}]}, "evaluation.sets.0.num_samples = 0"),
        (
            {"sets": [SET | {"sampling": {"n": 2}}]},
            "evaluation.sets.a.sampling.n cannot be set here: set evaluation.sets.a.num_samples",
        ),
        (
            {"sets": [SET | {"sampling": {"max_new_tokens": 2}}]},
            "evaluation.sets.a.sampling.max_new_tokens cannot be set here: set "
            "evaluation.sets.a.max_new_tokens",
        ),
        (
            {"sets": [SET | {"max_new_tokens": 5000}]},
            "evaluation.sets.a.max_new_tokens (5000) must be < generators.context_length (5000): "
            "the prompt needs room; raise generators.context_length, or lower it",
        ),
        ({"max_new_tokens": 6000}, "evaluation.max_new_tokens (6000) must be < generators.context"),
        (
            {"max_new_tokens": 100, "sampling": {"max_new_tokens": 50}},
            "evaluation.sampling.max_new_tokens (50) and evaluation.max_new_tokens (100) must not "
            "be given together; remove the first",
        ),
        (
            {"sets": [SET | {"columns": {"problem": "x", "messages": "y"}}]},
            'evaluation.sets.a.columns.problem ("x") and evaluation.sets.a.columns.messages',
        ),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_by_name(evaluation, message):
    with pytest.raises(ConfigError) as error:
        config_of(**evaluation)
    assert message in str(error.value)
