"""Rows of other trainers and data sets become the problems that they are."""

import json
from pathlib import Path

import pytest

from megatron_rl.config import ColumnsConfig
from megatron_rl.data.requested_format import requested_formats
from megatron_rl.errors import DataError
from megatron_rl.types import Problem
from tests.unit.data.problem_reading import load_problems, scan_file

DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of "
    "the form Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
    'What is 1 + 1?\n\nRemember to put your answer on its own line after "Answer:".'
)
VERL = {
    "data_source": "math_dapo",
    "prompt": [{"role": "user", "content": DAPO}],
    "ability": "MATH",
    "reward_model": {"ground_truth": "2", "style": "rule"},
    "extra_info": {"index": "uuid-1"},
}
SLIME = {"prompt": "What is 1 + 1? Put it in \\boxed{}.", "label": 2, "metadata": {"rm_type": "x"}}
OPENR1 = {
    "problem": "What is 1 + 1?",
    "solution": "It is 2.",
    "answer": "2",
    "source": "olympiads",
    "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "2"}],
}


def write(folder: Path, *records: object) -> Path:
    path = folder / "t.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def columns(**given: object) -> ColumnsConfig:
    return ColumnsConfig.model_validate(given)


def only_row(folder: Path, record: object, **given: object):
    (row,) = scan_file(write(folder, record), columns(**given))[1]
    return row


def test_verl_rows_have_their_messages_and_pay_for_what_they_ask(tmp_path: Path):
    row = only_row(tmp_path, VERL, preset="verl")
    assert row.messages == ({"role": "user", "content": DAPO},)
    assert row.problem == Problem(
        id=row.problem.id,
        text=DAPO,
        answer="2",
        extra={
            "data_source": "math_dapo",
            "ability": "MATH",
            "extra_info": {"index": "uuid-1"},
            "answer_format": ["answer_line"],
        },
    )
    assert len(row.problem.id) == 16


def test_rows_that_are_repeated_are_found_by_what_they_ask(tmp_path: Path):
    again = VERL | {"extra_info": {"index": "uuid-2"}}
    other = VERL | {"reward_model": {"ground_truth": "3"}}
    path = write(tmp_path, VERL, again, other, VERL)
    scan, rows = scan_file(path, columns(preset="verl"))
    assert [row.problem.answer for row in rows] == ["2", "3"]
    assert len(scan.rows_K) == 4


def test_an_id_tells_rows_apart_and_repeats_only_itself(tmp_path: Path):
    again = VERL | {"extra_info": {"index": "uuid-2"}}
    given = {"preset": "verl", "id": "extra_info.index"}
    path = write(tmp_path, VERL, again, VERL)
    problems = load_problems(path, columns=columns(**given))
    assert [problem.id for problem in problems] == ["uuid-1", "uuid-2"]
    path = write(tmp_path, VERL, VERL | {"reward_model": {"ground_truth": "3"}})
    with pytest.raises(DataError, match=r':2: id "uuid-1" is taken by .*:1, which is another'):
        load_problems(path, columns=columns(**given))


def test_slime_rows_take_texts_lists_json_and_numbers(tmp_path: Path):
    row = only_row(tmp_path, SLIME, preset="slime")
    assert row.messages is None and row.asked == SLIME["prompt"]
    assert (row.problem.answer, row.problem.extra["metadata"]) == ("2", {"rm_type": "x"})
    assert row.problem.extra["answer_format"] == ["boxed"]
    chat = [{"role": "user", "content": "1+1?"}]
    for prompt in (chat, json.dumps(chat)):
        row = only_row(tmp_path, SLIME | {"prompt": prompt}, preset="slime")
        assert row.asked == tuple(chat)
    row = only_row(tmp_path, SLIME | {"prompt": "[1, 2] has which sum?"}, preset="slime")
    assert row.asked == "[1, 2] has which sum?"


@pytest.mark.parametrize("preset", ["openr1", "numina"])
def test_open_data_is_asked_for_a_box_and_loses_rows_without_an_answer(tmp_path: Path, preset):
    nothing = [OPENR1 | {"answer": answer} for answer in ("proof", " NotFound ", "", None)]
    path = write(tmp_path, *nothing, OPENR1)
    scan, (row,) = scan_file(path, columns(preset=preset))
    assert scan.num_unanswerable == 4
    assert row.asked == "What is 1 + 1?\n\nPut the final answer in \\boxed{}."
    assert row.problem.extra == {"source": "olympiads", "answer_format": ["boxed"]}


def test_an_id_of_content_does_not_depend_on_file_format_or_suffix(tmp_path: Path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    row = only_row(tmp_path, VERL, preset="verl")
    parquet.write_table(pa.Table.from_pylist([VERL]), tmp_path / "t.parquet")
    (problem,) = load_problems(
        tmp_path / "t.parquet", columns=columns(preset="verl", suffix="\nThink.")
    )
    assert problem.id == row.problem.id
    assert problem.text == DAPO + "\nThink."
    assert problem.extra["extra_info"] == {"index": "uuid-1"}


def test_several_turns_and_an_own_system_message_stay_as_they_are(tmp_path: Path):
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1."},
        {"role": "user", "content": [{"type": "text", "text": "And one more?"}], "name": None},
    ]
    row = only_row(tmp_path, {"chat": chat, "answer": "2"}, messages="chat", suffix=" Answer: ?")
    assert row.messages is not None
    assert [m["role"] for m in row.messages] == ["system", "user", "assistant", "user"]
    assert row.messages[-1] == {"role": "user", "content": "And one more? Answer: ?"}
    assert row.problem.text == "And one more? Answer: ?"


def test_the_package_s_own_form_may_have_messages_and_no_id(tmp_path: Path):
    chat = [{"role": "user", "content": "1+1?"}]
    path = write(tmp_path, {"messages": chat, "answer": "2"}, {"problem": "1?", "answer": "1"})
    _, (first, second) = scan_file(path)
    assert first.asked == tuple(chat) and first.problem.extra == {}
    assert second.asked == "1?" and len(second.problem.id) == 16


def test_a_problem_with_messages_beside_it_keeps_them_as_an_extra_field(tmp_path: Path):
    record = {"id": "a", "problem": "1+1?", "answer": "2", "messages": "kept"}
    (problem,) = load_problems(write(tmp_path, record))
    assert problem == Problem(id="a", text="1+1?", answer="2", extra={"messages": "kept"})


def test_code_rows_of_other_columns_bring_their_tests(tmp_path: Path):
    tests = [{"input": "1", "output": "2"}]
    record = {"q": "Add one.", "type": "code", "language": "cpp", "tests": tests, "long": "x"}
    row = only_row(
        tmp_path, record, problem="q", kind="type", extra=["language", "tests", "absent"]
    )
    assert row.problem.kind == "code" and row.problem.answer == ""
    assert row.problem.extra == {"language": "cpp", "tests": tests}


def test_code_problems_that_differ_in_their_tests_are_two(tmp_path: Path):
    code = {"problem": "Add.", "kind": "code", "language": "cpp"}
    path = write(tmp_path, code | {"tests": [1]}, code | {"tests": [2]}, code | {"tests": [1]})
    assert [p.extra["tests"] for p in load_problems(path)] == [[1], [2]]


def test_a_name_with_a_dot_is_tried_first_and_nested_json_is_opened(tmp_path: Path):
    given = {"problem": "q", "answer": "a.b"}
    assert only_row(tmp_path, {"q": "?", "a.b": "1", "a": {"b": "2"}}, **given).problem.answer == (
        "1"
    )
    record = {"q": "?", "a": '{"b": "2"}'}
    assert only_row(tmp_path, record, **given).problem.answer == "2"


def messages_of(*items: object) -> dict[str, object]:
    return {"prompt": list(items), "label": "1"}


USER = {"role": "user", "content": "1?"}


@pytest.mark.parametrize(
    ("record", "preset", "message"),
    [
        (
            {"prompt": "1?", "lable": "1"},
            "slime",
            'missing field "label" (data.columns.answer); found prompt, lable; nearest: "lable"',
        ),
        (
            {"prompt": "1?", "reward_model": {"ground_thruth": "1"}},
            "verl",
            'found prompt, reward_model; nearest: "reward_model.ground_thruth"',
        ),
        ({"label": "1"}, "slime", 'missing field "prompt" (data.columns.messages)'),
        ({"answer": "1"}, "numina", 'missing field "problem" (data.columns.problem)'),
        ({"prompt": "1?", "label": ["1"]}, "slime", 'field "label" must be text, got list'),
        ({"prompt": "1?", "label": True}, "slime", 'field "label" must be text, got bool'),
        ({"prompt": "1?", "label": None}, "slime", 'field "label" must be text, got NoneType'),
        ({"prompt": " ", "label": "1"}, "slime", 'field "prompt" is blank'),
        ({"prompt": 5, "label": "1"}, "slime", "must be a list of messages or a text, got int"),
        (messages_of(), "slime", 'field "prompt" has no messages'),
        (messages_of("hello"), "slime", '"prompt[0]" must have "role" and "content"; found str'),
        (messages_of({"role": "user"}), "slime", "found role"),
        (messages_of({"role": "robot", "content": ""}), "slime", "has the role 'robot'"),
        (messages_of({"role": "user", "content": 1}), "slime", "text as its content, got int"),
        (
            messages_of({"role": "user", "content": [{"type": "image", "image": 0}]}),
            "slime",
            "has a part that is no text",
        ),
        (
            messages_of(USER, {"role": "assistant", "content": "1"}),
            "slime",
            'ends with the role "assistant" and must end with "user"',
        ),
        (messages_of({"role": "user", "content": " "}), "slime", "ends with a blank message"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_with_its_field(tmp_path, record, preset, message):
    path = write(tmp_path, SLIME if preset == "slime" else record, record)
    with pytest.raises(DataError) as error:
        load_problems(path, columns=columns(preset=preset))
    assert message in str(error.value)
    assert str(error.value).startswith(f"{path}:")


def test_parquet_rows_are_named_by_row_group(tmp_path: Path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    records = [SLIME | {"label": label} for label in ("1", "2", None)]
    parquet.write_table(pa.Table.from_pylist(records), tmp_path / "t.parquet", row_group_size=2)
    with pytest.raises(DataError, match=r't\.parquet: row group 1, row 1: missing field "label"'):
        load_problems(tmp_path / "t.parquet", columns=columns(preset="slime"))


def test_an_id_that_was_named_must_be_there(tmp_path: Path):
    with pytest.raises(DataError, match=r'missing field "uuid" \(data\.columns\.id\)'):
        load_problems(write(tmp_path, SLIME), columns=columns(preset="slime", id="uuid"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DAPO, ["answer_line"]),
        ("Put it within \\boxed{}.", ["boxed"]),
        ('output the final answer after "####".', ["hashes"]),
        ("**Answer**: in \\boxed{}", ["boxed", "answer_line"]),
        ("Answer the question. ##### Title", []),
    ],
)
def test_the_form_of_an_answer_is_the_one_that_is_asked_for(text, expected):
    assert requested_formats(text) == expected


def test_problems_that_ask_for_no_form_are_counted_and_take_a_box(tmp_path: Path):
    path = write(tmp_path, {"prompt": "1+1?", "label": "2"}, SLIME)
    scan, rows = scan_file(path, columns(preset="slime"))
    assert scan.num_unsaid == 1
    assert [row.problem.extra["answer_format"] for row in rows] == [["boxed"], ["boxed"]]
    scan, rows = scan_file(path, columns(preset="slime", answer_format="hashes"))
    assert scan.num_unsaid == 0 and rows[0].problem.extra["answer_format"] == ["hashes"]
