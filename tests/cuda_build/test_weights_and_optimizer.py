"""Optimiser steps and published weights of Transformer Engine's layers."""

import pytest
import torch

from megatron_rl.conversion.families import float32_tensors
from megatron_rl.conversion.families.shapes import tensor_shapes
from tests.cuda_build.surroundings import learner_of, ranks_of
from tests.tiny_models import CASES


@pytest.mark.parametrize("layout", ["alone", "tp2+sp"])
@pytest.mark.parametrize("case", CASES)
def test_every_tensor_is_published_in_its_shape(case, layout, gpu, platform, specs):
    with ranks_of(layout, platform) as parallel, gpu.dropping():
        learner = learner_of(specs[case], parallel, platform, "bf16")
        published = {
            name: (tuple(tensor.shape), tensor.dtype, tensor.device.type)
            for name, tensor in learner.named_weights()
        }
    always_float32 = float32_tensors(specs[case])
    expected = {
        name: (
            tuple(shape),
            torch.float32 if name in always_float32 else torch.bfloat16,
            "cuda",
        )
        for name, shape in tensor_shapes(specs[case])
    }
    assert published == expected


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("case", ["qwen3", "qwen3 moe"])
def test_the_optimiser_updates_float32_copies(case, precision, gpu, platform, specs):
    with ranks_of("dp2", platform) as parallel, gpu.dropping():
        learner = learner_of(specs[case], parallel, platform, precision)
        optimizer = learner._optimizer
        for part in optimizer.chained_optimizers:
            part._copy_model_grads_to_main_grads()
        before = gpu.work
        assert optimizer.step_with_ready_grads()
        assert gpu.work.kernels > before.kernels
        for part in optimizer.chained_optimizers:
            for state in part.optimizer.state.values():
                assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.float32
    assert gpu.work.copies_refused == before.copies_refused
