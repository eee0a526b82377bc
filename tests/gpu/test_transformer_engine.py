"""Transformer Engine's layers and FP8 against torch's layers, which every other test is about."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from megatron_rl.config import Fp8Config
from megatron_rl.learner.device.platform import CudaPlatform
from megatron_rl.learner.device.precision import Device, offered_recipes
from megatron_rl.programs.builders.hardware import installed_version
from tests.gpu.gpu_policy import UNCLIPPED

ENGINE = installed_version("transformer-engine")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(ENGINE is None, reason="no Transformer Engine"),
]


@dataclass(frozen=True, kw_only=True)
class TorchLayersOnCuda(CudaPlatform):
    """The layers that CPUs use, on a GPU that has Transformer Engine."""

    def block_spec(self, config: Any, *, vp_stage: int | None) -> Any:
        from megatron_rl.learner.device.torch_layers import torch_block_spec

        return torch_block_spec(config, vp_stage=vp_stage)

    def fused_fields(self, *, dtype: torch.dtype, is_mixture: bool) -> dict[str, Any]:
        return {}


@pytest.fixture(scope="module")
def torch_layers(platform):
    return TorchLayersOnCuda(local_rank=platform.local_rank)


def logprobs_of(learner, sequences):
    return torch.cat(learner.logprobs(sequences)).float()


def gradients_of(learner, sequences):
    """Return the float32 gradient of every parameter for a step on the sequences."""
    learner.update_supervised(sequences)  # clipping, which changes gradients in place, is off
    (chunk,) = learner._chunks
    return {name: p.main_grad.float().clone() for name, p in chunk.module.named_parameters()}


def mean_error(actual, expected):
    return (actual - expected).abs().mean().item()


def relative_error(actual, expected):
    """Return the norm of the difference of all gradients over the norm of what is expected."""
    assert actual.keys() == expected.keys()
    difference = sum((actual[name] - expected[name]).square().sum() for name in expected)
    return (difference / sum(g.square().sum() for g in expected.values())).sqrt().item()


def offered():
    if not torch.cuda.is_available():
        return []
    capability = torch.cuda.get_device_capability()
    return offered_recipes(Device(capability=capability, te_version=ENGINE))


def test_log_probs_are_as_near_to_float32_as_those_of_torch_layers(
    make_learner, torch_layers, sequences
):
    exact = logprobs_of(make_learner(on=torch_layers, precision="fp32"), sequences)
    plain = mean_error(logprobs_of(make_learner(on=torch_layers), sequences), exact)
    engine = mean_error(logprobs_of(make_learner(), sequences), exact)
    # Both round to bf16, in other places; another weight or position is off by 1 and more.
    assert engine < 2 * plain + 0.01


def test_gradients_are_as_near_to_float32_as_those_of_torch_layers(
    make_learner, torch_layers, sequences
):
    exact = gradients_of(
        make_learner(on=torch_layers, precision="fp32", optimizer=UNCLIPPED), sequences
    )
    plain = gradients_of(make_learner(on=torch_layers, optimizer=UNCLIPPED), sequences)
    engine = gradients_of(make_learner(optimizer=UNCLIPPED), sequences)
    assert relative_error(engine, exact) < 2 * relative_error(plain, exact) + 0.01


@pytest.mark.parametrize("recipe", ["delayed", "tensorwise", "blockwise", "mxfp8"])
def test_fp8_is_near_to_bf16(make_learner, sequences, recipe):
    if recipe not in offered():
        pytest.skip(f"{recipe} is not for this GPU")
    fp8 = {"precision": "fp8", "fp8": Fp8Config(recipe=recipe), "clip_grad": 0.0}
    bf16_logprobs = logprobs_of(make_learner(), sequences)
    learner = make_learner(**fp8)
    logprobs_of(learner, sequences)  # gives the delayed recipe its first maxima
    # e4m3 keeps 4 bits, 6 %, of each factor, and errors of a product partly cancel.
    assert mean_error(logprobs_of(learner, sequences), bf16_logprobs) < 0.3
    bf16 = gradients_of(make_learner(optimizer=UNCLIPPED), sequences)
    assert relative_error(gradients_of(learner, sequences), bf16) < 0.5


@pytest.mark.parametrize("recipe", ["delayed", "tensorwise", "blockwise", "mxfp8"])
def test_fp8_learns(make_learner, sequences, recipe):
    if recipe not in offered():
        pytest.skip(f"{recipe} is not for this GPU")
    learner = make_learner(precision="fp8", fp8=Fp8Config(recipe=recipe))
    losses = [learner.update_supervised(sequences)["sft/loss"] for _ in range(8)]
    assert losses[-1] < losses[0] - 0.1
    assert {weight.dtype for _, weight in learner.named_weights()} == {torch.bfloat16}


def test_fp8_keeps_first_and_last_layers_in_bf16(make_learner, sequences):
    if "tensorwise" not in offered():
        pytest.skip("tensorwise is not for this GPU")
    exact = logprobs_of(make_learner(), sequences)
    whole = make_learner(precision="fp8", fp8=Fp8Config())
    partly = make_learner(precision="fp8", fp8=Fp8Config(first_last_layers_bf16=True))
    errors = [mean_error(logprobs_of(learner, sequences), exact) for learner in (partly, whole)]
    assert errors[0] < errors[1]


def test_fp16_learns_with_a_scaled_loss(make_learner, sequences):
    learner = make_learner(precision="fp16")
    records = [learner.update_supervised(sequences) for _ in range(8)]
    assert records[-1]["sft/loss"] < records[0]["sft/loss"] - 0.1
    assert sum(record["sft/skipped_steps"] for record in records) == 0
