"""Outcomes in the run folder: what is read back, what a crash leaves, what does not fit."""

import json
import logging

import pytest

from megatron_rl.data.curriculum.lifecycle import BorderRecord, SourceKey
from megatron_rl.errors import BatchFileError
from megatron_rl.programs.curriculum.outcome_log import OutcomeLog
from megatron_rl.types import Cursor, GroupOutcome

BIG = 2**64 - 1


def border(next_index: int, *, outstanding: tuple[int, ...] = (), key: int = BIG) -> BorderRecord:
    return BorderRecord(
        cursor=Cursor(next_index=next_index, outstanding=outstanding),
        visits={"a": next_index, "b": 3},
        settled=[
            (GroupOutcome(index=1, num_correct=1, num_completions=4), SourceKey("a", key)),
            (GroupOutcome(index=3, num_correct=0, num_completions=8), SourceKey("b", 5)),
        ],
        outstanding=[SourceKey("b", 7 + i) if i > 2 else None for i in outstanding],
    )


FIRST = [border(4), border(9, outstanding=(2, 8))]
SECOND = [border(12)]


@pytest.fixture
def log(tmp_path) -> OutcomeLog:
    log = OutcomeLog(tmp_path / "run" / "outcomes.jsonl")
    log.append(0, FIRST)
    log.append(1, SECOND)
    return log


def test_borders_are_read_back_in_order(log):
    assert list(log.open(2, SECOND[-1].cursor)) == [*FIRST, *SECOND]


def test_nothing_is_there_at_the_start(tmp_path, caplog):
    assert list(OutcomeLog(tmp_path / "none.jsonl").open(0, Cursor())) == []
    assert caplog.text == ""


def test_the_line_of_a_batch_that_was_never_written_is_forgotten(log):
    assert list(log.open(1, FIRST[-1].cursor)) == FIRST
    log.append(1, [border(20)])
    assert list(log.open(2, Cursor(next_index=20))) == [*FIRST, border(20)]


def test_a_line_that_a_crash_cut_short_is_forgotten(log, tmp_path):
    path = tmp_path / "run" / "outcomes.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[1][:-20])
    assert list(log.open(1, FIRST[-1].cursor)) == FIRST
    log.append(1, SECOND)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1]


def test_outcomes_of_another_run_are_refused(log):
    with pytest.raises(BatchFileError, match="the outcomes of batch 1 do not fit its file"):
        list(log.open(2, Cursor(next_index=13)))


def test_batches_without_outcomes_are_named(log, tmp_path, caplog):
    """As where the lifecycle was off for a while."""
    with caplog.at_level(logging.WARNING):
        assert list(log.open(5, Cursor(next_index=40))) == [*FIRST, *SECOND]
    assert "the outcomes of batches 2 to 4 are not there" in caplog.text
