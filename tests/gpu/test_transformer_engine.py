"""What the stages of gpu-check leave out of precisions: fp16, and FP8 of some layers only."""

import pytest
import torch

from megatron_rl.config import Fp8Config
from megatron_rl.learner.device.precision import Device, offered_recipes
from megatron_rl.programs.builders.hardware import installed_version
from megatron_rl.programs.gpu_stages.learning.policy import logprobs_of, mean_error

ENGINE = installed_version("transformer-engine")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(ENGINE is None, reason="no Transformer Engine"),
]


def test_fp8_keeps_first_and_last_layers_in_bf16(make_learner, sequences):
    capability = torch.cuda.get_device_capability()
    if "tensorwise" not in offered_recipes(Device(capability=capability, te_version=ENGINE)):
        pytest.skip("tensorwise is not for this GPU")
    exact = logprobs_of(make_learner(), sequences)
    whole = make_learner(precision="fp8", fp8=Fp8Config())
    partly = make_learner(precision="fp8", fp8=Fp8Config(first_last_layers_bf16=True))
    errors = [mean_error(logprobs_of(learner, sequences), exact) for learner in (partly, whole)]
    assert errors[0] < errors[1]
    assert {weight.dtype for _, weight in whole.named_weights()} == {torch.bfloat16}


def test_fp16_learns_with_a_scaled_loss(make_learner, sequences):
    learner = make_learner(precision="fp16")
    records = [learner.update_supervised(sequences) for _ in range(8)]
    assert records[-1]["sft/loss"] < records[0]["sft/loss"] - 0.1
    assert sum(record["sft/skipped_steps"] for record in records) == 0
