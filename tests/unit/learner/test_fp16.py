"""fp16 on one rank: the loss is scaled, an overflow costs one step and is no failure."""

import dataclasses

import numpy as np
import pytest
import torch

from megatron_rl.config import LossScaleConfig
from megatron_rl.conversion.families import model_spec
from megatron_rl.learner.learner import Learner
from tests.distributed.tiny_policy import CONFIG, make_batches, settings, weights_of, with_sequences

pytestmark = pytest.mark.lengthy


@pytest.fixture
def build(parallel, platform):
    def build_one(precision="fp16", **loss_scale):
        wanted = settings(
            precision=precision,
            objective=dataclasses.replace(settings().objective, loss="grpo"),
            loss_scale=LossScaleConfig(**loss_scale),
        )
        return Learner(model_spec(CONFIG), wanted, parallel, platform, pretrained=None, seed=3)

    return build_one


@pytest.fixture(scope="module")
def batch():
    return make_batches(1)[0]


def test_the_step_is_that_of_float32_whatever_the_scale(build, batch):
    expected = build("fp32").update(batch)
    for scale in (16.0, 1024.0):
        learner = build(initial=scale)
        actual = learner.update(batch)
        assert actual["policy/loss_scale"] == scale
        assert actual["policy/overflow_steps"] == actual["policy/skipped_steps"] == 0
        # fp16 keeps 11 bits, 5e-4, and loses some more in four layers.
        assert actual["policy/loss"] == pytest.approx(expected["policy/loss"], rel=0.02, abs=0.002)
        assert actual["policy/grad_norm"] == pytest.approx(expected["policy/grad_norm"], rel=0.02)


def test_weights_are_published_in_the_type_of_the_generators(build):
    assert {weight.dtype for _, weight in build().named_weights()} == {torch.float32}


def test_an_overflow_halves_the_scale_and_is_no_failure(build, batch):
    # Times this scale, some gradient is beyond fp16's largest number, 65504.
    learner = build(initial=2.0**24)
    before, scales = weights_of(learner), []
    for _ in range(24):
        metrics = learner.update(batch)
        assert metrics["policy/skipped_steps"] == 0
        scales.append(metrics["policy/loss_scale"])
        if not metrics["policy/overflow_steps"]:
            break
        for name, weight in weights_of(learner).items():
            assert torch.equal(weight, before[name]), name
        assert metrics["policy/lr"] == pytest.approx(0.01 / 3)  # lr / (warmup_steps + 1)
    assert len(scales) >= 2
    assert scales == [2.0**24 / 2**i for i in range(len(scales))]
    assert any(not torch.equal(w, before[name]) for name, w in weights_of(learner).items())


def test_an_overflow_at_the_smallest_scale_is_a_failure(build, batch):
    metrics = build(initial=2.0**24, minimum=2.0**24).update(batch)
    assert metrics["policy/skipped_steps"] == 1
    assert metrics["policy/overflow_steps"] == 0


def test_a_broken_batch_is_a_failure_at_any_scale(build, batch):
    advantages_N = batch.sequences.advantages_N.copy()
    advantages_N[0] = np.nan
    learner = build()
    before = weights_of(learner)
    metrics = learner.update(with_sequences(batch, advantages_N=advantages_N))
    assert metrics["policy/skipped_steps"] == 1
    assert metrics["policy/overflow_steps"] == 0
    for name, weight in weights_of(learner).items():
        assert torch.equal(weight, before[name]), name


def test_the_scale_doubles_after_a_quiet_window_and_is_saved(build, batch, tmp_path):
    learner = build(initial=16.0, window=2)
    scales = [learner.update(batch)["policy/loss_scale"] for _ in range(3)]
    assert scales == [16, 16, 32]
    learner.save(tmp_path, 3, extra={})
    again = build(initial=16.0, window=2)
    again.restore(tmp_path)
    # One quiet step of the window of two was taken at 32 before saving.
    assert [again.update(batch)["policy/loss_scale"] for _ in range(2)] == [32, 64]


def test_supervised_training_reports_overflows_as_well(build, batch):
    metrics = build(initial=2.0**30).update_supervised(batch.sequences)
    assert metrics["sft/overflow_steps"] == 1
    assert metrics["sft/skipped_steps"] == 0
