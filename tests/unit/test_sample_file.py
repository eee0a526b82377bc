"""Samples of an evaluation that was interrupted: which are kept, and which are drawn anew."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from megatron_rl.algorithm.pass_at_k import Votes
from megatron_rl.evaluate import ProblemScore, SampleFile, ScoredSample
from megatron_rl.types import Problem, Verdict

PROBLEMS = [Problem(id=f"p{i}", text=f"{i}?", answer=str(i)) for i in range(6)]


def open_file(path: Path, *, num_samples: int = 32, **changes: Any) -> SampleFile:
    settings = {"problems": PROBLEMS, "settings": {"temperature": 0.7}, "version": 5}
    return SampleFile(path, num_samples=num_samples, **(settings | changes))


def score_of(*versions: int, answer: str = "2") -> ProblemScore:
    sample = ScoredSample(
        verdict=Verdict(format_ok=True, correct=True, answer=answer),
        length=7,
        is_truncated=False,
        versions=Counter(versions),
    )
    return ProblemScore(samples=[sample], votes=Votes(right=1, wrong=(3, 1), silent=2))


def test_what_is_kept_is_read_back_as_it_was(tmp_path: Path):
    path = tmp_path / "aime24" / "after_000005.jsonl"
    file = open_file(path, num_samples=64)
    score = score_of(5, 5, 6)
    file.keep(3, score)
    assert open_file(path, num_samples=64).known() == {3: score}


def test_a_problem_without_a_verdict_is_known_to_have_none(tmp_path: Path):
    file = open_file(tmp_path / "f.jsonl", num_samples=64)
    empty = ProblemScore(samples=[], votes=Votes(right=0, wrong=(), silent=0))
    file.keep(0, empty)
    assert file.known() == {0: empty}


@pytest.mark.parametrize(
    ("num_samples", "finished", "kept"),
    [
        (64, {0, 2}, {0, 2}),
        (32, {0, 2, 3}, {2, 3}),  # pairs of problems have 64 samples
        (33, {4, 5}, {4, 5}),
        (16, {0, 1, 2, 3}, {0, 1, 2, 3}),
        (16, {1, 2, 3, 4, 5}, {4, 5}),  # the last block is what is left over
        (1, {0, 1, 2, 3, 4}, set()),
        (1, {0, 1, 2, 3, 4, 5}, {0, 1, 2, 3, 4, 5}),
    ],
)
def test_whole_blocks_are_kept_or_short_completions_would_be(
    tmp_path: Path, num_samples: int, finished: set[int], kept: set[int]
):
    file = open_file(tmp_path / "f.jsonl", num_samples=num_samples)
    for position in finished:
        file.keep(position, score_of(5))
    assert open_file(tmp_path / "f.jsonl", num_samples=num_samples).known().keys() == kept


def test_tokens_of_an_older_policy_do_not_count(tmp_path: Path):
    file = open_file(tmp_path / "f.jsonl", num_samples=64)
    file.keep(0, score_of(4, 5))
    file.keep(1, score_of(5, 9))
    assert file.known().keys() == {1}


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": {"temperature": 1.0}},
        {"problems": [Problem(id="p0", text="0?", answer="other")]},
    ],
)
def test_samples_of_other_settings_or_problems_are_not_used(tmp_path: Path, changes, caplog):
    path = tmp_path / "f.jsonl"
    open_file(path, num_samples=64).keep(0, score_of(5))
    assert open_file(path, num_samples=64, **changes).known() == {}
    assert ("of other settings" in caplog.text) == ("settings" in changes)


def test_a_line_that_a_crash_cut_short_is_dropped(tmp_path: Path):
    path = tmp_path / "f.jsonl"
    open_file(path, num_samples=64).keep(0, score_of(5))
    with path.open("a") as file:
        file.write('{"problem": "p1", "ke')
    again = open_file(path, num_samples=64)
    again.keep(2, score_of(5))
    assert again.known().keys() == {0, 2}


def test_a_long_answer_is_shortened_where_people_read_it(tmp_path: Path):
    path = tmp_path / "f.jsonl"
    open_file(path).keep(0, score_of(5, answer="x" * 5000))
    line = json.loads(path.read_text().splitlines()[1])
    assert line["samples"][0]["answer"] == "x" * 200
