"""Sources of a run: each read as its entry says, surveyed before anything starts."""

import json
import logging
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from megatron_rl.config import RunConfig, resolve
from megatron_rl.data.curriculum.by_index import IndexCurriculum
from megatron_rl.data.curriculum.lifecycle import LifecycleCurriculum
from megatron_rl.errors import ConfigError, DataError
from megatron_rl.programs.builders.prompts import load_tokenizer
from megatron_rl.programs.curriculum.shares import mean_group_size, mixture_lines
from megatron_rl.programs.curriculum.sources import (
    curriculum_sources,
    load_train_sources,
    open_curriculum,
)
from tests.unit.programs.builders.byte_model import write_byte_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_byte_model(tmp_path_factory.mktemp("model"))


def run(model: Path, train: Any, **data: Any) -> RunConfig:
    return resolve(
        {
            "run_dir": "unused",
            "num_steps": 1,
            "model": {"path": str(model), "init": "random"},
            "data": {"train": train, "system_prompt": "none", "shuffle": False, **data},
            "generators": {"sampling": {"max_new_tokens": 100}},
            "rollout": {"group_size": 4},
            "judge": {"verifiers": {"puzzle": "verifier.py:verify"}},
        }
    )


def write(path: Path, *records: Any) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def sums(folder: Path, name: str, count: int, **extra: Any) -> str:
    records = [
        {"id": str(i), "problem": f"{name} {i}?", "answer": str(i), **extra} for i in range(count)
    ]
    return write(folder / f"{name}.jsonl", *records)


def curriculum(config: RunConfig) -> IndexCurriculum | LifecycleCurriculum:
    tokenizer = load_tokenizer(config.model.path)
    return open_curriculum(
        config, curriculum_sources(config, load_train_sources(config, tokenizer))
    )


def test_each_source_is_read_and_asked_as_its_entry_says(model, tmp_path, caplog):
    prompt = tmp_path / "say.txt"
    prompt.write_text("Be brief.")
    other = write(tmp_path / "verl.jsonl", {"prompt": "q?", "reward_model": {"ground_truth": "7"}})
    config = run(
        model,
        [
            {"path": sums(tmp_path, "sums", 9), "weight": 2, "rows": "3:5"},
            {
                "path": other,
                "name": "dapo",
                "columns": {"preset": "verl"},
                "system_prompt": str(prompt),
                "group_size": 2,
            },
        ],
    )
    with caplog.at_level(logging.INFO):
        mixed = curriculum(config)
    given = [mixed.assignment(index) for index in range(3)]
    texts = [bytes_of(model, assignment.prompt_ids) for assignment in given]
    # Both sources number their problems, or hash them; names tell them apart.
    assert [(a.problem.id, a.source, a.group_size) for a in given[::2]] == [
        ("sums/3", "sums", 4),
        ("sums/4", "sums", 4),
    ]
    assert texts[0] == "user:sums 3?\nassistant:"
    assert given[1].problem.id.startswith("dapo/") and given[1].problem.answer == "7"
    assert texts[1] == "system:Be brief.\nuser:q?\nassistant:"
    assert given[1].group_size == 2
    said = [record.message for record in caplog.records if record.message.startswith("source ")]
    assert said == [
        f"source sums: 66.7% of the groups, 4 completions each, 2 problems, from "
        f"{tmp_path}/sums.jsonl",
        f"source dapo: 33.3% of the groups, 2 completions each, 1 problems, from "
        f"{tmp_path}/verl.jsonl",
    ]
    assert mean_group_size(config) == Fraction(2 * 4 + 2, 3)


def bytes_of(model: Path, token_ids: tuple[int, ...]) -> str:
    return load_tokenizer(model).decode(token_ids)


def test_a_single_path_has_no_names(model, tmp_path):
    config = run(model, sums(tmp_path, "sums", 3))
    only = curriculum(config)
    given = [only.assignment(index) for index in range(4)]
    assert [a.problem.id for a in given] == ["0", "1", "2", "0"]
    assert {(a.source, a.group_size) for a in given} == {("", 4)}
    assert mixture_lines(config, [3]) == []
    assert mean_group_size(config) == 4


def test_a_kind_is_that_of_all_problems_whatever_their_rows_say(model, tmp_path):
    path = sums(tmp_path, "puzzles", 2, kind="math")
    config = run(model, [{"path": path, "kind": "puzzle"}])
    verifier = tmp_path / "verifier.py"
    verifier.write_text("def verify(problem, response): ...\n")
    config = config.model_copy(
        update={
            "judge": config.judge.model_copy(update={"verifiers": {"puzzle": f"{verifier}:verify"}})
        }
    )
    assert curriculum(config).assignment(0).problem.kind == "puzzle"
    with pytest.raises(DataError, match='unknown kind "poem"'):
        curriculum(run(model, [{"path": path, "kind": "poem"}]))


def test_a_source_that_cannot_be_used_is_refused_whatever_the_others_are(model, tmp_path):
    good = sums(tmp_path, "good", 2)
    bad = write(tmp_path / "bad.jsonl", {"id": "1", "problem": "?"})
    with pytest.raises(DataError, match=r'bad.jsonl:1: missing field "answer"'):
        curriculum(run(model, [{"path": good}, {"path": bad}]))
    with pytest.raises(ConfigError, match=r"data.train.1.rows \(\"5:\"\) must leave rows over"):
        curriculum(run(model, [{"path": good}, {"path": good, "name": "x", "rows": "5:"}]))


def test_a_reserve_has_what_is_not_trained_on_yet(model, tmp_path, caplog):
    train, every = sums(tmp_path, "sums", 3), sums(tmp_path, "every", 6)
    # The same ids ask for the same in both files.
    Path(every).write_text(Path(every).read_text().replace("every", "sums"))
    config = run(model, train, reserve=every, reserve_rows=":5", lifecycle={})
    with caplog.at_level(logging.INFO):
        tokenizer = load_tokenizer(config.model.path)
        (source,) = curriculum_sources(config, load_train_sources(config, tokenizer))
    assert [problem.text for problem in source.problems[3:]] == ["sums 3?", "sums 4?"]
    assert (source.num_given, source.num_reserve, len(source.prompts)) == (3, 2, 5)
    assert len(set(source.keys_P.tolist())) == 5
    assert f"{every}: 3 problems are left out of the reserve, since {train} has them" in caplog.text
    opened = open_curriculum(config, [source])
    given = [opened.assignment(index) for index in range(6)]
    assert {assignment.problem.id for assignment in given} == {"0", "1", "2"}
    with pytest.raises(DataError, match=r"each of its 3 problems is in .*sums.jsonl as well"):
        curriculum(run(model, train, reserve=every, reserve_rows=":3", lifecycle={}))


def test_each_source_of_a_mixture_has_a_reserve_of_its_own(model, tmp_path):
    train = [
        {"path": sums(tmp_path, "a", 2), "reserve": sums(tmp_path, "hard", 4)},
        {"path": sums(tmp_path, "b", 2)},
    ]
    with pytest.raises(ConfigError, match=r"data.train.0.reserve needs \[data.lifecycle\]"):
        run(model, train)
    config = run(model, train, lifecycle={})
    loaded = load_train_sources(config, load_tokenizer(config.model.path))
    first, second = curriculum_sources(config, loaded)
    assert (first.num_reserve, second.num_reserve) == (2, 0)
    assert first.assignment(2).problem.id == "a/2" and first.assignment(2).problem.text == "hard 2?"
