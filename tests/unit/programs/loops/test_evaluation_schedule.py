import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from megatron_rl.evaluate import EvaluationResult
from megatron_rl.evaluate.scores import PartScores, Score
from megatron_rl.programs.loops.evaluation_schedule import Evaluations, is_last_recorded
from megatron_rl.run_dir import RunDir, read_jsonl

SCORE = Score(mean=0.5, stderr=None)
SCORES = PartScores(
    num_problems=2,
    pass_at={1: SCORE, 2: SCORE},
    majority_at={1: SCORE, 2: SCORE},
    length_mean=7.0,
    truncated=0.0,
)
RESULT = EvaluationResult(
    scores=SCORES,
    parts={"fr": SCORES},
    split_by="language",
    num_samples=4,
    num_errors=0,
    num_kept=0,
    k=2,
    format=1.0,
    version_mean=0.0,
    version_oldest=0,
    version_newest=0,
    seconds=1.0,
)


async def measure(samples: Path, version: int) -> EvaluationResult:
    return RESULT


class Recorder:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.metrics: dict[int, dict[str, float]] = {}

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        self.metrics[step] = dict(metrics)

    def close(self) -> None: ...


def open_evaluations(root: Path, set_name: str | None = None, **changes: Any) -> Evaluations:
    settings = {"place": 0, "measure": measure, "current_version": lambda: 100, "sinks": []}
    return Evaluations(RunDir(root), set_name=set_name, **(settings | changes))


def test_what_is_recorded_is_not_repeated_by_a_later_life(tmp_path: Path):
    asyncio.run(open_evaluations(tmp_path).run("before", version=0))
    again = open_evaluations(tmp_path)
    assert again.has("before", version=0) and not again.has("after", version=0)
    (record,) = read_jsonl(tmp_path / "evaluations.jsonl")
    assert (record["version"], record["when"], record["pass@1"]) == (0, "before", 0.5)


def test_a_line_cut_short_by_a_crash_does_not_spoil_the_next(tmp_path: Path):
    path = tmp_path / "evaluations.jsonl"
    asyncio.run(open_evaluations(tmp_path).run("before", version=0))
    with path.open("a") as file:
        file.write('{"version": 2, "wh')
    asyncio.run(open_evaluations(tmp_path).run("during", version=2))
    assert [record["version"] for record in read_jsonl(path)] == [0, 2]


@pytest.mark.parametrize(
    ("recorded", "version", "every", "is_due"),
    [
        ([0], 1, 2, False),
        ([0], 2, 2, True),
        ([0], 5, 2, True),  # the multiples 2 and 4 were passed while something ran: one evaluation
        ([0, 5], 5, 2, False),
        ([0, 5], 6, 2, True),
        ([0, 6], 4, 2, True),  # the learner went back to 4: what lies beyond does not count
        ([], 1, 2, False),
        ([0], 50, 0, False),
    ],
)
def test_one_is_due_once_a_multiple_is_passed(tmp_path: Path, recorded, version, every, is_due):
    evaluations = open_evaluations(tmp_path)
    for number in recorded:
        asyncio.run(evaluations.run("during", version=number))
    assert evaluations.due(version, every=every) == (version if is_due else None)


@pytest.mark.parametrize("version_afterwards", [None, 4])
def test_scores_are_void_when_the_learner_goes_back_meanwhile(tmp_path: Path, version_afterwards):
    evaluations = open_evaluations(tmp_path, current_version=lambda: version_afterwards)
    asyncio.run(evaluations.run("after", version=5))
    assert not evaluations.has("after", version=5)
    assert not (tmp_path / "evaluations.jsonl").exists()


def test_sets_share_a_file_and_each_knows_its_own(tmp_path: Path):
    recorder = Recorder()
    named = open_evaluations(tmp_path, "aime24", place=1, sinks=[recorder])
    asyncio.run(named.run("after", version=9))
    run_dir = RunDir(tmp_path)
    assert is_last_recorded(run_dir, num_steps=9, sets=["aime24"])
    assert not is_last_recorded(run_dir, num_steps=9, sets=["aime24", None])
    assert not open_evaluations(tmp_path).has("after", version=9)
    asyncio.run(open_evaluations(tmp_path).run("after", version=9))
    assert is_last_recorded(run_dir, num_steps=9, sets=["aime24", None])
    first, second = read_jsonl(run_dir.evaluations)
    assert (first["set"], first["place"]) == ("aime24", 1) and "set" not in second
    metrics = recorder.metrics[9]
    assert metrics["evaluation/aime24/pass@1"] == 0.5
    assert metrics["evaluation/aime24/language/fr/maj@2"] == 0.5


@pytest.mark.parametrize(
    ("version", "evaluated"),
    [
        (20, 20),
        (27, 23),  # interrupted at 23, which no multiple of 10 has passed since
        (30, 30),
        (21, 21),  # the learner went back behind 23
    ],
)
def test_an_interrupted_evaluation_goes_on_unless_another_is_due(tmp_path, version, evaluated):
    folder = RunDir(tmp_path).samples_of("aime24")
    folder.mkdir(parents=True)
    (folder / "during_000023.jsonl").touch()
    assert open_evaluations(tmp_path, "aime24").due(version, every=10) == evaluated
    assert open_evaluations(tmp_path).due(version, every=10) == version  # another set


def test_an_evaluation_that_is_recorded_was_not_interrupted(tmp_path: Path):
    folder = RunDir(tmp_path).samples_of(None)
    folder.mkdir(parents=True)
    (folder / "during_000023.jsonl").touch()
    evaluations = open_evaluations(tmp_path)
    asyncio.run(evaluations.run("during", version=23))
    assert open_evaluations(tmp_path).due(27, every=10) is None
