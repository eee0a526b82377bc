"""Held-out sets of a run: lengths and prompts of their own, parts by a field, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_rl.config import RunConfig, resolve
from megatron_rl.errors import ConfigError, DataError
from megatron_rl.programs.builders.prompts import load_tokenizer
from megatron_rl.programs.loops.held_out import LoadedSet, load_held_out
from tests.unit.programs.builders.byte_model import write_byte_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_byte_model(tmp_path_factory.mktemp("model"))


def write(path: Path, *records: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def problem(number: int, text: str = "?", **extra: Any) -> dict[str, Any]:
    return {"id": str(number), "problem": text, "answer": "2", **extra}


def run(model: Path, *sets: dict[str, Any], **evaluation: Any) -> RunConfig:
    return resolve(
        {
            "run_dir": "unused",
            "num_steps": 1,
            "model": {"path": str(model), "init": "random"},
            "data": {"train": "none.jsonl", "system_prompt": "none"},
            "generators": {"sampling": {"max_new_tokens": 100}},
            "learner": {"token_budget": 100},
            "evaluation": {"sets": sets, **evaluation},
        }
    )


def load(config: RunConfig) -> list[LoadedSet]:
    return load_held_out(config, load_tokenizer(config.model.path))


def test_each_set_has_a_system_prompt_and_a_length_of_its_own(model, tmp_path):
    (tmp_path / "prompt.txt").write_text("Think.")
    path = write(tmp_path / "p.jsonl", problem(0, "1+1?"))
    asked = {"path": path, "system_prompt": str(tmp_path / "prompt.txt"), "max_new_tokens": 150}
    plain, own = load(run(model, {"name": "plain", "path": path}, {"name": "own", **asked}))
    tokenizer = load_tokenizer(model)
    assert tokenizer.decode(plain.prompts.prompts[0]) == "user:1+1?\nassistant:"
    assert tokenizer.decode(own.prompts.prompts[0]) == "system:Think.\nuser:1+1?\nassistant:"
    assert str(own) == (
        "own: 1 problems x 1 = 1 completions of up to 150 tokens, temperature 0.7, top-p 1; every "
        "20 versions, before and after"
    )


def test_a_prompt_has_to_leave_room_for_the_completions_of_its_set(model, tmp_path):
    # 256 positions less 200 and 2 leave 54; "user:", newline and "assistant:" take 16.
    short = write(tmp_path / "short.jsonl", problem(0, "x" * 38))
    long = write(tmp_path / "long.jsonl", problem(0, "x" * 39))
    limit = {"name": "aime24", "max_new_tokens": 200}
    assert load(run(model, limit | {"path": short}))[0].prompts.longest == 54
    with pytest.raises(DataError) as error:
        load(run(model, limit | {"path": long}))
    assert "has a prompt of 55 tokens, the limit is 54" in str(error.value)
    assert str(error.value).endswith("or lower evaluation.sets.aime24.max_new_tokens")
    # In training 100 tokens are left, and so is room.
    assert load(run(model, {"name": "aime24", "path": long}))[0].prompts.longest >= 55


def test_problems_are_split_by_language_where_they_name_one(model, tmp_path):
    languages = ["fr", "zh", None, "fr", 7, " "]
    records = [problem(i) | ({"language": x} if x else {}) for i, x in enumerate(languages)]
    (loaded,) = load(run(model, {"name": "a", "path": write(tmp_path / "p.jsonl", *records)}))
    assert loaded.labels == ["fr", "zh", None, "fr", None, None]
    assert str(loaded).endswith("; by language: fr 2, zh 1")


def test_problems_are_split_by_another_field_or_not_at_all(model, tmp_path):
    path = write(tmp_path / "p.jsonl", problem(0, language="fr", subject="algebra"))
    sets = [{"name": "a", "path": path}, {"name": "b", "path": path, "split_by": ""}]
    by_subject, whole = load(run(model, *sets, split_by="subject"))
    assert (by_subject.split_by, by_subject.labels) == ("subject", ["algebra"])
    assert whole.labels == [None]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([problem(0)], 'evaluation.sets.a.split_by ("subject") must be a field of the problems of'),
        (
            [problem(i, subject=f"s{i}") for i in range(51)],
            "into 50 parts at most, not 51: each has metrics of its own",
        ),
    ],
)
def test_a_field_that_no_problem_has_or_each_has_another_of_is_refused(
    model, tmp_path, records, message
):
    asked = {"name": "a", "path": write(tmp_path / "p.jsonl", *records), "split_by": "subject"}
    with pytest.raises(ConfigError) as error:
        load(run(model, asked))
    assert message in str(error.value)


def test_a_set_that_cannot_be_used_is_named(model, tmp_path):
    good = {"name": "good", "path": write(tmp_path / "p.jsonl", problem(0))}
    with pytest.raises(DataError, match=r"gone\.jsonl"):
        load(run(model, good, {"name": "bad", "path": str(tmp_path / "gone.jsonl")}))
    with pytest.raises(ConfigError, match=r'evaluation\.sets\.good\.rows \("5:"\) must leave rows'):
        load(run(model, good | {"rows": "5:"}))
