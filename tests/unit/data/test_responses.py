"""Files of responses: what is read, and what is refused by file and line."""

import json
from pathlib import Path

import pytest

from megatron_rl.data.responses import load_responses
from megatron_rl.errors import DataError
from megatron_rl.types import Problem

GOOD = {"id": "a", "kind": "math", "gold": "2", "response": "two"}
KINDS = ("math", "code", "count")


def write(folder: Path, *records: object) -> Path:
    path = folder / "responses.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records))
    return path


def test_a_line_is_a_problem_and_a_response(tmp_path: Path):
    code = {"id": 7, "kind": "code", "language": "cpp", "tests": [{"input": "", "output": "1"}]}
    path = write(tmp_path, {**GOOD, "problem": "1+1?", "level": 3}, {**code, "response": ""}, GOOD)
    first, second, third = load_responses(path, kinds=KINDS)
    assert first.problem == Problem(id="a", text="1+1?", answer="2", extra={"level": 3})
    assert (first.id, first.text, first.where) == ("a", "two", f"{path}:1")
    assert (second.id, second.problem.id, second.problem.text) == (7, "7", "")
    assert second.problem.extra["language"] == "cpp"
    assert third.id == "a"  # many responses to one problem


def test_gold_is_what_problem_files_call_answer(tmp_path: Path):
    record = {"id": "a", "answer": "2", "response": ""}
    assert load_responses(write(tmp_path, record), kinds=KINDS)[0].problem.answer == "2"


@pytest.mark.parametrize(("reason", "is_truncated"), [("length", True), ("stop", False)])
def test_a_line_may_say_that_its_response_was_cut_off(tmp_path: Path, reason, is_truncated):
    path = write(tmp_path, {**GOOD, "finish_reason": reason}, GOOD)
    told, untold = load_responses(path, kinds=KINDS)
    assert (told.is_truncated, untold.is_truncated) == (is_truncated, False)
    assert told.problem == untold.problem


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"id": None}, 'the field "id" is needed, a text or a whole number'),
        ({"id": True}, 'the field "id" is needed'),
        ({"response": None}, 'the field "response" is needed, a text; found id, kind, gold'),
        ({"gold": 2}, 'field "gold" must be text, got int'),
        ({"gold": ""}, 'field "gold" is blank'),
        ({"answer": "2"}, '"gold" and "answer" are two names of one field'),
        ({"problem": 1}, 'field "problem" must be text, got int'),
        ({"finish_reason": 1}, 'field "finish_reason" must be text, got int'),
        ({"kind": "chess"}, 'unknown kind "chess"; known kinds: code, count, math'),
    ],
)
def test_a_fault_is_named_with_file_and_line(tmp_path: Path, change, complaint):
    path = write(tmp_path, GOOD, {**GOOD, **change})
    with pytest.raises(DataError) as error:
        load_responses(path, kinds=KINDS)
    assert str(error.value).startswith(f"{path}:2: ")
    assert complaint in str(error.value)


def test_a_line_may_say_how_its_prompt_left_the_thought(tmp_path: Path):
    path = write(tmp_path, GOOD, {**GOOD, "prompt_thought": "opened"})
    unsaid, opened = load_responses(path, kinds=KINDS)
    assert (unsaid.prompt_thought, opened.prompt_thought) == ("unopened", "opened")
    assert opened.problem.extra == {}
    path = write(tmp_path, {**GOOD, "prompt_thought": True})
    with pytest.raises(DataError, match=r'"prompt_thought" must be one of "unopened", "opened"'):
        load_responses(path, kinds=KINDS)
