import asyncio
from pathlib import Path

import pytest

from megatron_rl.evaluate import EvaluationResult
from megatron_rl.programs.loops.evaluation_schedule import Evaluations
from megatron_rl.run_dir import read_jsonl

RESULT = EvaluationResult(
    num_problems=2,
    num_samples=4,
    num_errors=0,
    k=2,
    pass_at_1=0.5,
    pass_at_k=1.0,
    majority_at_k=0.5,
    format=1.0,
    length_mean=7.0,
    version_mean=0.0,
    version_oldest=0,
    version_newest=0,
    seconds=1.0,
)


async def measure() -> EvaluationResult:
    return RESULT


def open_evaluations(path: Path) -> Evaluations:
    return Evaluations(path, measure=measure, current_version=lambda: 100, sinks=[])


def test_what_is_recorded_is_not_repeated_by_a_later_life(tmp_path: Path):
    path = tmp_path / "evaluations.jsonl"
    asyncio.run(open_evaluations(path).run("before", version=0))
    again = open_evaluations(path)
    assert again.has("before", version=0) and not again.has("after", version=0)
    (record,) = read_jsonl(path)
    assert (record["version"], record["when"], record["pass@1"]) == (0, "before", 0.5)


def test_a_line_cut_short_by_a_crash_does_not_spoil_the_next(tmp_path: Path):
    path = tmp_path / "evaluations.jsonl"
    asyncio.run(open_evaluations(path).run("before", version=0))
    with path.open("a") as file:
        file.write('{"version": 2, "wh')
    asyncio.run(open_evaluations(path).run("during", version=2))
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
    evaluations = open_evaluations(tmp_path / "evaluations.jsonl")
    for number in recorded:
        asyncio.run(evaluations.run("during", version=number))
    assert evaluations.is_due(version, every=every) == is_due


@pytest.mark.parametrize("version_afterwards", [None, 4])
def test_scores_are_void_when_the_learner_goes_back_meanwhile(tmp_path: Path, version_afterwards):
    path = tmp_path / "evaluations.jsonl"
    evaluations = Evaluations(
        path, measure=measure, current_version=lambda: version_afterwards, sinks=[]
    )
    asyncio.run(evaluations.run("after", version=5))
    assert not evaluations.has("after", version=5)
    assert not path.exists()
