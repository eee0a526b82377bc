import json
from pathlib import Path

import pytest

from megatron_rl.data.responses import load_responses
from megatron_rl.data.sft_files import SftPair, load_sft_pairs
from megatron_rl.errors import DataError
from megatron_rl.types import Problem
from tests.unit.data.problem_reading import load_problems

GOOD = {"id": "a", "problem": "1+1?", "answer": "2"}


def write_lines(folder: Path, *lines: object) -> Path:
    path = folder / "problems.jsonl"
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return path


def test_problems_are_read_in_order_and_blank_lines_are_skipped(tmp_path: Path):
    path = write_lines(tmp_path, GOOD, "", {**GOOD, "id": "b", "kind": "count", "source": "x"})
    assert load_problems(path) == [
        Problem(id="a", text="1+1?", answer="2", kind="math"),
        Problem(id="b", text="1+1?", answer="2", kind="count", extra={"source": "x"}),
    ]


def test_what_a_kind_needs_beside_an_answer_is_kept(tmp_path: Path):
    tests = [{"input": "1 2", "output": "3"}]
    code = {"id": "a", "problem": "Sum.", "kind": "code", "language": "cpp", "tests": tests}
    own = {"id": "b", "problem": "Five words.", "kind": "count", "words": 5}
    first, second = load_problems(write_lines(tmp_path, code, own))
    assert (first.answer, first.extra) == ("", {"language": "cpp", "tests": tests})
    assert (second.answer, second.extra) == ("", {"words": 5})


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
        ((GOOD, {**GOOD, "answer": "3"}), 2, 'id "a" is taken by'),
        (("", {**GOOD, "kind": "chess"}), 2, 'unknown kind "chess"; known kinds: code, math'),
        ((GOOD, {**GOOD, "id": "b", "answer": "?"}), 2, "odd"),
    ],
)
def test_a_fault_is_named_with_file_and_line(tmp_path: Path, lines, line, complaint):
    path = write_lines(tmp_path, *lines)
    with pytest.raises(DataError) as error:
        load_problems(
            path,
            kinds={"math", "code"},
            check=lambda problems: ["odd" if p.answer == "?" else None for p in problems],
        )
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert complaint in str(error.value)


HALF = r'"\ud83d"'
CODE_TESTS = '"tests": [{"input": "1", "output": %s}]'


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (
            f'"problem": {HALF}, "answer": "2"',
            r'field "problem" has half of a surrogate pair (\ud8',
        ),
        (r'"problem": "x \uDE00", "answer": "2"', r"(\ude00) at character 3, which is no text"),
        (f'"problem": "p", "answer": {HALF}', 'field "answer" has half'),
        (f'"problem": "p", "answer": "2", "own": {HALF}', 'field "own" has half'),
        (
            f'"problem": "p", "kind": "code", {CODE_TESTS % HALF}',
            'field "tests[0].output" has half',
        ),
        (f'"problem": "p", "answer": "2", {HALF}: 1', "the name of a field has half"),
        (f'"problem": "p", "answer": "2", "own": {"[" * 100_000}', "not JSON that can be read"),
        (f'"problem": "p", "answer": "2", "own": {"1" * 5000}', "not JSON that can be read"),
    ],
    ids=range(8),
)
def test_text_that_no_tokenizer_takes_is_named_with_file_line_and_field(tmp_path, line, complaint):
    path = write_lines(tmp_path, GOOD, f'{{"id": "b", {line}}}')
    with pytest.raises(DataError) as error:
        load_problems(path)
    assert str(error.value).startswith(f"{path}:2: ")
    assert complaint in str(error.value)
    str(error.value).encode()


def test_a_whole_surrogate_pair_is_one_character(tmp_path: Path):
    path = write_lines(tmp_path, r'{"id": "a", "problem": "\ud83d\ude00", "answer": "\\ud83d"}')
    (problem,) = load_problems(path)
    assert (problem.text, problem.answer) == ("\U0001f600", r"\ud83d")


def test_pairs_and_responses_have_no_half_characters_either(tmp_path: Path):
    path = write_lines(tmp_path, f'{{"prompt": "p", "response": {HALF}}}')
    with pytest.raises(DataError, match=r':1: field "response" has half of a surrogate pair'):
        load_sft_pairs(path)
    path = write_lines(tmp_path, f'{{"id": 1, "gold": "2", "response": {HALF}}}')
    with pytest.raises(DataError, match=r':1: field "response" has half of a surrogate pair'):
        load_responses(path, kinds={"math"})


def test_of_many_faults_the_first_ten_are_named(tmp_path: Path):
    path = write_lines(tmp_path, *({**GOOD, "id": str(i)} for i in range(12)))
    with pytest.raises(DataError) as error:
        load_problems(path, check=lambda problems: [f"odd {p.id}" for p in problems])
    lines = str(error.value).splitlines()
    assert lines == [*(f"{path}:{i + 1}: odd {i}" for i in range(10)), "and 2 more"]


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
