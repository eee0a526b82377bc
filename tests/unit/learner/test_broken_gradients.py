"""On one rank: a gradient of NaN or inf changes nothing, is counted, and learning goes on."""

import math

import numpy as np
import pytest
import torch

from megatron_rl.conversion.families import model_spec
from megatron_rl.learner.device.parallel import RankInfo, initialize_parallel, shut_down_parallel
from megatron_rl.learner.device.platform import CpuPlatform
from megatron_rl.learner.learner import Learner
from megatron_rl.parallelism.layouts import Layout
from tests.distributed.tiny_policy import CONFIG, make_batches, settings, weights_of, with_sequences

pytestmark = pytest.mark.lengthy


@pytest.fixture(scope="module")
def build():
    if torch.cuda.is_available():
        pytest.skip("the CPU platform is for machines without CUDA")
    platform = CpuPlatform(num_threads=1)
    platform.install()
    place = RankInfo(rank=0, world_size=1, local_rank=0)
    layout = Layout(tp=1, sp=False, pp=1, vpp=1, cp=1, ep=1, etp=1)
    parallel = initialize_parallel(place, platform, layout, seed=0)
    yield lambda **changes: Learner(
        model_spec(CONFIG),
        settings(**changes),
        parallel,
        platform,
        pretrained=None,
        seed=3,
    )
    shut_down_parallel()


def spoiled(batch, value, sequence=0):
    advantages_N = batch.sequences.advantages_N.copy()
    advantages_N[sequence] = value
    return with_sequences(batch, advantages_N=advantages_N)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_broken_batch_leaves_no_trace(build, dtype, value):
    good, bad = make_batches(2)
    learner, undisturbed = build(dtype=dtype), build(dtype=dtype)
    before = weights_of(learner)
    metrics = learner.update(spoiled(bad, np.float32(value)))
    assert metrics["policy/skipped_steps"] == 1
    assert not math.isfinite(metrics["policy/grad_norm"])
    for name, weight in weights_of(learner).items():
        assert torch.equal(weight, before[name]), name
    # Neither the optimiser's moments nor the learning rate have seen it.
    metrics, expected = learner.update(good), undisturbed.update(good)
    assert metrics["policy/skipped_steps"] == 0
    assert metrics["policy/lr"] == expected["policy/lr"]
    for name, weight in weights_of(undisturbed).items():
        assert torch.equal(weights_of(learner)[name], weight), name


def test_only_the_broken_minibatch_is_left_out(build):
    (batch,) = make_batches(1, num_minibatches=2)
    assert batch.minibatches_N[0] == 0
    learner = build()
    before = weights_of(learner)
    assert learner.update(spoiled(batch, np.float32(math.nan)))["policy/skipped_steps"] == 1
    after = weights_of(learner)
    assert any(not torch.equal(after[name], before[name]) for name in before)
    assert all(weight.isfinite().all() for weight in after.values())
