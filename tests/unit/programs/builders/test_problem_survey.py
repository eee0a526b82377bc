"""Prompts of a run: which rows are left, read late and yet the same, and what is refused."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from megatron_rl.config import RunConfig, held_out_sets, resolve
from megatron_rl.errors import ConfigError, DataError, ModelError
from megatron_rl.programs.builders import prompts as builder
from megatron_rl.programs.builders.answer_batches import batched_answers
from megatron_rl.programs.builders.prompts import (
    held_out_source,
    load_run_prompts,
    training_sources,
)
from megatron_rl.types import Problem
from tests.unit.programs.builders.byte_model import TEMPLATE, write_byte_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_byte_model(tmp_path_factory.mktemp("model"))


def run(model: Path, path: Path, **data: Any) -> RunConfig:
    return resolve(
        {
            "run_dir": "unused",
            "num_steps": 1,
            "model": {"path": str(model), "init": "random"},
            "data": {"train": str(path), "system_prompt": "none", **data},
            "generators": {"sampling": {"max_new_tokens": 100}},
        }
    )


def load(config: RunConfig) -> builder.PromptSet:
    tokenizer = builder.load_tokenizer(config.model.path)
    return load_run_prompts(config, training_sources(config.data)[0], tokenizer)


def write(folder: Path, *records: object) -> Path:
    path = folder / "t.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def record(number: int, text: str = "?", answer: str = "2") -> dict[str, str]:
    return {"id": str(number), "problem": text, "answer": answer}


def test_what_is_read_late_is_what_the_file_holds_in_its_order(model, tmp_path):
    records = [record(i, f"What is {i} + \u00e9?", str(i)) for i in range(50)]
    found = load(run(model, write(tmp_path, *records)))
    assert list(found.problems) == [
        Problem(id=str(i), text=f"What is {i} + \u00e9?", answer=str(i)) for i in range(50)
    ]
    tokenizer = builder.load_tokenizer(model)
    for place in random.Random(0).choices(range(50), k=20):
        text = tokenizer.decode(found.prompts[place])
        assert text == f"user:{found.problems[place].text}\nassistant:"
        assert json.loads(found.lines[place]) == records[place]
    # "user:" 5, newline 1, "assistant:" 10; the bound has some to spare.
    longest = max(map(len, found.prompts))
    assert longest == len("What is 49 + \u00e9?".encode()) + 16 <= found.longest <= longest + 17


def test_rows_are_a_slice_of_the_file_and_held_out_ones_another(model, tmp_path):
    path = write(tmp_path, *(record(i) for i in range(10)))
    config = run(model, path, rows=":-2", evaluation=str(path), evaluation_rows="-2:")
    assert [p.id for p in load(config).problems] == list("01234567")
    (held_out,) = held_out_sets(config)
    source, tokenizer = held_out_source(held_out), builder.load_tokenizer(model)
    assert [p.id for p in load_run_prompts(config, source, tokenizer).problems] == ["8", "9"]
    with pytest.raises(ConfigError, match=r'data\.rows \("10:"\) must leave rows over.* has 10'):
        load(run(model, path, rows="10:"))


def test_held_out_problems_have_the_columns_of_training_or_their_own(model, tmp_path):
    path = write(tmp_path, {"prompt": "1?", "label": 1})
    held_out = tmp_path / "own.jsonl"
    held_out.write_text(json.dumps(record(7)) + "\n")
    slime = {"preset": "slime"}
    data = {"columns": slime, "evaluation": str(held_out), "evaluation_columns": {}}
    config = run(model, path, **data)
    (held_out,) = held_out_sets(config)
    source, tokenizer = held_out_source(held_out), builder.load_tokenizer(model)
    assert [p.id for p in load_run_prompts(config, source, tokenizer).problems] == ["7"]
    del data["evaluation_columns"]
    (same,) = held_out_sets(run(model, path, **data))
    assert same.columns is not None and same.columns.preset == "slime"


@pytest.mark.parametrize("num_rows", [60, pytest.param(21_000, marks=pytest.mark.lengthy)])
def test_repeated_rows_are_dropped_and_counted(model, tmp_path, caplog, num_rows):
    rows = ({"prompt": f"{i % 50}?", "label": i % 50} for i in range(num_rows))
    path = write(tmp_path, *rows)
    with caplog.at_level("INFO"):
        found = load(run(model, path, columns={"preset": "slime", "answer_format": "boxed"}))
    assert [p.text for p in found.problems] == [f"{i}?" for i in range(50)]
    repeated = f"{num_rows - 50:,}"
    assert caplog.messages == [f"{path}: of {num_rows:,} rows {repeated} repeated are dropped"]


@pytest.mark.lengthy
def test_problems_that_cannot_be_verified_are_named_or_dropped(model, tmp_path, caplog):
    answers = ["2", "\\frac{1}{", "x^2", "\\frac{1}{", "1/0"]
    path = write(tmp_path, *(record(i, answer=answer) for i, answer in enumerate(answers)))
    with pytest.raises(DataError) as error:
        load(run(model, path))
    lines = str(error.value).splitlines()
    assert [line.split(": ")[0].rpartition(":")[2] for line in lines] == ["2", "4", "5"]
    assert 'problem "3" cannot be verified: its answer cannot be parsed' in lines[1]
    assert [p.id for p in load(run(model, path, unusable="drop")).problems] == ["0", "2"]
    (said,) = caplog.messages
    assert "3 unusable problems are dropped; the first: " in said and ":2: problem" in said


def test_blank_questions_and_missing_answers_are_named_or_dropped(model, tmp_path):
    rows = [record(0), record(1, " "), {"id": "2", "problem": "?"}, record(3)]
    path = write(tmp_path, *rows)
    with pytest.raises(DataError, match=r':2: field "problem" is blank\n.*:3: missing field "answ'):
        load(run(model, path))
    assert [p.id for p in load(run(model, path, unusable="drop")).problems] == ["0", "3"]


def test_a_file_of_which_nothing_is_left_is_refused_all_the_same(model, tmp_path):
    path = write(tmp_path, {"id": "0", "problem": "?"}, {"id": "1", "problem": "?"})
    with pytest.raises(DataError, match=r':1: missing field "answer"'):
        load(run(model, path, unusable="drop"))
    path = write(tmp_path, {"problem": "?", "answer": "proof"})
    with pytest.raises(DataError, match=r"none of 1 rows can be used: 1 say"):
        load(run(model, path, columns={"preset": "numina"}))


def test_prompts_that_are_too_long_are_named_or_dropped(model, tmp_path):
    # The limit is 256 - 100 - 2 = 154; "user:" 5, newline 1, "assistant:" 10.
    path = write(tmp_path, record(0, "x" * 138), record(1, "x" * 139), record(2, "\u00e9" * 69))
    with pytest.raises(DataError) as error:
        load(run(model, path))
    assert str(error.value).startswith(
        f'{path}:2: problem "1" has a prompt of 155 tokens, the limit is 154: '
    )
    found = load(run(model, path, unusable="drop"))
    assert [p.id for p in found.problems] == ["0", "2"]
    assert found.longest == 154  # exact: a bound would not have been short enough


@pytest.mark.lengthy
def test_many_doubtful_prompts_are_measured_in_processes(model, tmp_path):
    rows = [record(i, f"{i}" + "x" * (138 - len(str(i)) + i % 7 // 6)) for i in range(4200)]
    found = load(run(model, write(tmp_path, *rows), unusable="drop"))
    assert len(found.problems) == 3600  # all but every seventh
    assert found.longest == 154


def test_a_template_that_refuses_some_chat_says_so_before_the_run(model, tmp_path):
    strict = "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}"
    chat = [
        {"role": "user", "content": "1?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "2?"},
    ]
    path = write(tmp_path, record(0), {"id": "1", "messages": chat, "answer": "2"})
    config = run(model, path)
    tokenizer = builder.load_tokenizer(model)
    tokenizer.chat_template = strict + TEMPLATE
    with pytest.raises(ModelError, match=r"messages of user, assistant, user: one turn only"):
        load_run_prompts(config, training_sources(config.data)[0], tokenizer)


def test_a_template_that_repeats_the_problem_is_measured(model, tmp_path):
    path = write(tmp_path, record(0, "x" * 100))
    tokenizer = builder.load_tokenizer(model)
    tokenizer.chat_template = "{{ messages[0].content }}{{ messages[0].content }}"
    config = run(model, path)
    with pytest.raises(DataError, match=r'problem "0" has a prompt of 200 tokens'):
        load_run_prompts(config, training_sources(config.data)[0], tokenizer)


def test_math_is_asked_about_in_batches_and_other_kinds_by_themselves():
    problems = [Problem(id=str(i), text="", answer=str(i)) for i in range(70)]
    problems.insert(3, Problem(id="own", text="", answer="", kind="own"))
    asked = batched_answers(problems)
    assert asked[0][0] == [3]
    assert sorted(place for places, _ in asked for place in places) == list(range(71))
    assert [len(places) for places, _ in asked] == [1, 32, 32, 6]
    assert asked[1][1].extra["answers"][2:4] == ["2", "3"]


@pytest.mark.lengthy
def test_a_quarter_of_a_million_rows_take_little_memory(model, tmp_path):
    import resource

    path = write(tmp_path, *(record(i, f"{i} " + "x" * 100, str(i)) for i in range(250_000)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = load(run(model, path))
    assert len(found.problems) == 250_000 and found.problems[249_999].answer == "249999"
    # Python objects of these problems would take 150 MiB, and their prompts 250 MiB more.
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mib < 120


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"columns": {"problem": "a", "messages": "b"}}, "must not be given together"),
        ({"columns": {"answer": ""}}, 'data.columns.answer ("") must name a column'),
        ({"columns": {"preset": "trl"}}, "data.columns.preset = 'trl'"),
        ({"columns": {"promt": "x"}}, "unknown key data.columns.promt"),
        ({"rows": "1-2"}, "data.rows = '1-2'"),
        ({"rows": "0:10:2"}, "data.rows = '0:10:2'"),
        ({"evaluation_rows": "1:"}, "data.evaluation_rows needs data.evaluation"),
        ({"evaluation_columns": {}}, "data.evaluation_columns needs data.evaluation"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(model, tmp_path, data, message):
    with pytest.raises(ConfigError) as error:
        run(model, tmp_path / "t.jsonl", **data)
    assert message in str(error.value)
