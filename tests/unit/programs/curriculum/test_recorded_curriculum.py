"""A run whose problems have a lifecycle, killed at any moment: resumed with the same problems."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_rl.batch import load_batch
from megatron_rl.batch_files import written_steps
from megatron_rl.errors import BatchFileError
from megatron_rl.programs.curriculum.recorded import RecordedCurriculum
from megatron_rl.run_dir import RunDir
from megatron_rl.types import Cursor
from tests.unit.programs.curriculum.recorded_problems import (
    borders_of,
    check_that_problems_follow_from_outcomes,
)
from tests.unit.programs.curriculum.recorded_rollout import config_of, fill, sources

SCRIPT = Path(__file__).with_name("recorded_rollout.py")


def metrics_of(run_dir: RunDir) -> list[dict[str, float]]:
    return [dict(load_batch(run_dir.batch(step)).metrics) for step in written_steps(run_dir)]


@pytest.mark.lengthy
@pytest.mark.parametrize("mode", ["async", "sync"])
def test_a_run_that_is_killed_again_and_again_goes_on_with_the_same_problems(tmp_path, mode):
    run_dir = RunDir(tmp_path / "run")
    chance = random.Random(mode)
    for _ in range(4):
        before = len(written_steps(run_dir)) if run_dir.batches.exists() else 0
        life = subprocess.Popen([sys.executable, str(SCRIPT), str(run_dir.root), "1000", mode])
        try:
            while not (run_dir.batches.exists() and len(written_steps(run_dir)) > before + 2):
                assert life.poll() is None
                time.sleep(0.005)
            time.sleep(chance.random() * 0.05)
        finally:
            life.kill()
            life.wait()
    fill(run_dir.root, 3, mode)
    recorded = check_that_problems_follow_from_outcomes(config_of(run_dir.root, mode), sources())
    assert len(recorded) > 60
    last = metrics_of(run_dir)[-1]
    assert last["curriculum/solved"] > 0
    standings = ("active", "solved", "deferred", "reserve")
    assert sum(last[f"curriculum/{standing}"] for standing in standings) == 32
    assert sum(last[f"source/easy/{standing}"] for standing in standings) == 12


@pytest.mark.lengthy
def test_in_lockstep_a_cut_run_is_the_uncut_one(tmp_path):
    whole, cut = RunDir(tmp_path / "whole"), RunDir(tmp_path / "cut")
    # Batches large enough that as many groups are never dropped before one is full.
    fill(whole.root, 8, "sync", n_batch=48)
    for _ in range(4):
        fill(cut.root, 2, "sync", n_batch=48)
    assert borders_of(cut) == borders_of(whole)
    assert len(borders_of(whole)) == 8
    for step in range(8):
        ours, theirs = load_batch(cut.batch(step)), load_batch(whole.batch(step))
        assert ours.samples == theirs.samples and ours.cursor == theirs.cursor
        assert (ours.groups_N == theirs.groups_N).all()
        of_curriculum = [
            {name: n for name, n in batch.metrics.items() if name.startswith("curriculum/")}
            for batch in (ours, theirs)
        ]
        assert of_curriculum[0] == of_curriculum[1]
    # The problems did not stay the same all the time.
    standings = [metrics["curriculum/active"] for metrics in metrics_of(whole)]
    assert len(set(standings)) > 3


def test_without_a_lifecycle_nothing_is_recorded(tmp_path):
    config = config_of(tmp_path / "run", "sync")
    plain = config.model_copy(update={"data": config.data.model_copy(update={"lifecycle": None})})
    curriculum = RecordedCurriculum(plain, sources(), step=3, cursor=Cursor(next_index=9))
    assert curriculum.take_batch() == ([], {})
    curriculum.write(3, [])
    assert not (tmp_path / "run").exists()


def test_a_batch_that_has_to_repeat_problems_is_warned_of_once(tmp_path, caplog):
    config = config_of(tmp_path, "sync", n_batch=96)
    curriculum = RecordedCurriculum(config, sources(), step=0, cursor=Cursor())
    for _ in range(2):
        curriculum.of_groups.settle([], Cursor())
        curriculum.take_batch()
    # 96 completions are 29 groups of 10 / 3 on average, and 8 of the 32 problems are in reserve.
    said = "24 problems are active, fewer than the groups of a batch (about 29)"
    assert caplog.text.count(said) == 1


def test_batches_of_another_run_are_refused(tmp_path):
    fill(tmp_path / "run", 2, "sync")
    with pytest.raises(BatchFileError, match="do not fit its file"):
        RecordedCurriculum(
            config_of(tmp_path / "run", "sync"), sources(), step=2, cursor=Cursor(next_index=1)
        )
