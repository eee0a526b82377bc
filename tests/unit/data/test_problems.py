import json
from pathlib import Path

import pytest

from megatron_rl.data.problems import load_problems
from megatron_rl.data.sft import SftPair, load_sft_pairs
from megatron_rl.errors import DataError
from megatron_rl.types import Problem

GOOD = {"id": "a", "problem": "1+1?", "answer": "2"}


def write_lines(folder: Path, *lines: object) -> Path:
    path = folder / "problems.jsonl"
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return path


def test_problems_are_read_in_order_and_blank_lines_are_skipped(tmp_path: Path):
    path = write_lines(tmp_path, GOOD, "", {**GOOD, "id": "b", "kind": "code", "source": "x"})
    assert load_problems(path) == [
        Problem(id="a", text="1+1?", answer="2", kind="math"),
        Problem(id="b", text="1+1?", answer="2", kind="code"),
    ]


def test_a_line_separator_inside_a_json_string_does_not_split_the_line(tmp_path: Path):
    path = tmp_path / "problems.jsonl"
    record = {**GOOD, "problem": "one\u2028two"}
    path.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
    assert load_problems(path)[0].text == "one\u2028two"


@pytest.mark.parametrize(
    ("lines", "line", "complaint"),
    [
        ((GOOD, '{"id": "b", '), 2, "not JSON"),
        ((GOOD, "[1, 2]"), 2, "expected a JSON object, got list"),
        (({"id": "a", "anwser": "2", "problem": "p"},), 1, 'missing field "answer"; found id, anw'),
        (({**GOOD, "answer": 2},), 1, 'field "answer" must be text, got int'),
        (({**GOOD, "problem": "  "},), 1, 'field "problem" is blank'),
        (({**GOOD, "kind": None},), 1, 'field "kind" must be text, got NoneType'),
        ((GOOD, GOOD), 2, 'id "a" is taken by'),
        (("", {**GOOD, "kind": "chess"}), 2, 'unknown kind "chess"; known kinds: code, math'),
        (({**GOOD, "answer": "?"},), 1, 'answer of "a" cannot be verified: odd'),
    ],
)
def test_a_fault_is_named_with_file_and_line(tmp_path: Path, lines, line, complaint):
    path = write_lines(tmp_path, *lines)
    with pytest.raises(DataError) as error:
        load_problems(
            path,
            kinds={"math", "code"},
            check_answer=lambda problem: "odd" if problem.answer == "?" else None,
        )
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert complaint in str(error.value)


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_file_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "problems.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=f"{path}: empty"):
        load_problems(path)


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"nowhere\.jsonl: cannot be read: No such file"):
        load_problems(tmp_path / "nowhere.jsonl")


def test_bytes_that_are_not_text_are_refused(tmp_path: Path):
    path = tmp_path / "problems.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        load_problems(path)


def test_sft_pairs_have_the_same_manners(tmp_path: Path):
    path = write_lines(tmp_path, {"prompt": "p", "response": "r"})
    assert load_sft_pairs(path) == [SftPair(prompt="p", response="r")]
    path = write_lines(tmp_path, {"prompt": "p", "response": "r"}, {"prompt": "p"})
    with pytest.raises(DataError, match=f'{path}:2: missing field "response"; found prompt'):
        load_sft_pairs(path)
