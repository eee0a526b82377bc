"""Batches without a finite gradient are named, and too many in a row end the run."""

import argparse
import json
import logging

import numpy as np
import pytest
import torch

from megatron_rl.batch import save_batch
from megatron_rl.config import resolve
from megatron_rl.errors import TrainingError
from megatron_rl.programs import learn
from megatron_rl.programs.loops.nonfinite_steps import NonfiniteSteps
from megatron_rl.run_dir import RunDir, read_jsonl
from tests.distributed.tiny_policy import CONFIG, make_batches, with_sequences

pytestmark = pytest.mark.lengthy


def test_the_last_of_too_many_in_a_row_names_them_all():
    skipped = NonfiniteSteps(most=3)
    skipped.note("batch 4", 1.0)
    skipped.note("batch 5", 2.0)
    with pytest.raises(TrainingError, match=r"3 batches in a row.*batch 4, batch 5, batch 6"):
        skipped.note("batch 6", 1.0)


def test_a_finite_gradient_starts_the_count_anew():
    skipped = NonfiniteSteps(most=2)
    for batch in range(4):
        skipped.note(f"batch {batch}", float(batch % 2))


def test_the_log_names_the_batch(caplog):
    with caplog.at_level(logging.WARNING):
        NonfiniteSteps(most=2).note("run/batches/000007.npz", 1.0)
    assert "run/batches/000007.npz" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="a learner on the CPU is for such machines")
def test_a_learner_goes_on_after_one_broken_batch_and_ends_after_two_in_a_row(tmp_path):
    from megatron_rl.learner.device.parallel import shut_down_parallel

    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    run_dir = RunDir(tmp_path / "run")
    run_dir.batches.mkdir(parents=True)
    broken = (0, 2, 3)
    for step, batch in enumerate(make_batches(5)):
        advantages_N = batch.sequences.advantages_N.copy()
        if step in broken:
            advantages_N[0] = np.nan
        save_batch(run_dir.batch(step), with_sequences(batch, advantages_N=advantages_N))
    config = resolve(
        {
            "run_dir": run_dir.root,
            "num_steps": 5,
            "model": {"path": tmp_path, "init": "random", "dtype": "float32"},
            "data": {"train": tmp_path / "none"},
            "generators": {"context_length": 64, "sampling": {"max_new_tokens": 60}},
            "learner": {"token_budget": 64, "max_skipped_steps": 2},
        }
    )
    try:
        with pytest.raises(TrainingError) as failure:
            learn.main(config, argparse.Namespace(replay=True))
    finally:
        shut_down_parallel()
    assert f"{run_dir.batch(2)}, {run_dir.batch(3)}" in str(failure.value)
    assert str(run_dir.batch(0)) not in str(failure.value)
    records = read_jsonl(run_dir.metrics)
    assert [record["policy/skipped_steps"] for record in records] == [1, 0, 1]
