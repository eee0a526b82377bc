"""The filter's files: grades that go on where they were, lines that are copied as they are."""

import json
from pathlib import Path

import pytest

from megatron_rl.errors import ConfigError, DataError
from megatron_rl.programs.offline.filter_difficulty import (
    _write_kept,
    read_grades,
    summary,
    write_too_hard,
)

GRADE = {"problem_id": "a", "num_errors": 1, "num_correct": 2, "num_wrong": 1, "wrong_answers": []}


def write(path: Path, *records: object, end: str = "") -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + end)
    return path


def test_grades_go_on_after_a_line_that_was_cut_short(tmp_path):
    path = write(tmp_path / "grades.jsonl", GRADE, end='{"problem_id": "b", "num')
    grades = read_grades(path, num_samples=4)
    assert list(grades) == ["a"] and grades["a"].pass_rate == 2 / 3
    assert path.read_text() == json.dumps(GRADE) + "\n"
    assert read_grades(tmp_path / "missing.jsonl", num_samples=4) == {}
    assert read_grades(write(tmp_path / "cut.jsonl", end='{"pro'), num_samples=4) == {}


def test_grades_of_another_number_of_samples_are_not_mixed_in(tmp_path):
    path = write(tmp_path / "grades.jsonl", GRADE)
    with pytest.raises(DataError, match=r"grades.jsonl:1: a grade of 4 samples, .* is 16"):
        read_grades(path, num_samples=16)


def test_what_is_no_grade_is_named(tmp_path):
    path = write(tmp_path / "grades.jsonl", GRADE, {"id": "b"})
    with pytest.raises(DataError, match=r"grades\.jsonl:2: is no grade"):
        read_grades(path, num_samples=4)


def test_kept_lines_are_copied_as_they_are(tmp_path):
    lines = ['{"id":"a",  "problem": "1+1?", "x": 1.0}', '{"id": "b", "problem": "2"}']
    _write_kept(lines, tmp_path / "kept.jsonl", {"a": "kept", "b": "too easy"})
    assert (tmp_path / "kept.jsonl").read_text() == lines[0] + "\n"


def test_problems_that_are_too_hard_may_go_to_a_reserve(tmp_path):
    lines = ['{"id": "a"}', '{"id":  "b"}', '{"id": "c"}']
    decisions = {"a": "kept", "b": "too hard", "c": "doubtful answer"}
    write_too_hard(lines, tmp_path / "hard.jsonl", decisions)
    assert (tmp_path / "hard.jsonl").read_text() == lines[1] + "\n"
    with pytest.raises(ConfigError, match=r"--reserve .*hard.jsonl/x: cannot be written"):
        write_too_hard(lines, tmp_path / "hard.jsonl" / "x", decisions)


def test_thresholds_that_keep_nothing_leave_no_file(tmp_path):
    with pytest.raises(ConfigError, match=r"keep none of 1 problems.*the grades stay"):
        _write_kept(['{"id": "a"}'], tmp_path / "kept.jsonl", {"a": "too hard"})
    assert not (tmp_path / "kept.jsonl").exists()


def test_the_summary_counts_every_decision_and_every_pass_rate(tmp_path):
    rates = [(0, 4), (1, 3), (2, 2), (4, 0)]
    records = [
        GRADE | {"problem_id": str(i), "num_errors": 0, "num_correct": c, "num_wrong": w}
        for i, (c, w) in enumerate(rates)
    ]
    grades = read_grades(write(tmp_path / "g.jsonl", *records), num_samples=4)
    decisions = {"0": "too hard", "1": "kept", "2": "kept", "3": "too easy"}
    counts, histogram = summary(decisions, list(grades.values()))
    by_decision = dict(zip(*(list(column.cells) for column in counts.columns), strict=True))
    assert by_decision == {
        "kept": "2", "too hard": "1", "too easy": "1", "doubtful answer": "0", "not judged": "0"
    }  # fmt: skip
    labels, numbers, _ = (list(column.cells) for column in histogram.columns)
    filled = {label: n for label, n in zip(labels, numbers, strict=True) if n != "0"}
    assert filled == {"never": "1", "25.0%": "1", "50.0%": "1", "always": "1"}
