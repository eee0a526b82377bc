"""State of Transformer Engine's own FusedAdam, saved and restored; its kernel alone is replaced."""

from typing import Any

import pytest
import torch

from megatron_rl.conversion.families import model_spec
from megatron_rl.learner.device.cpu_patches import _TorchOnHost
from megatron_rl.learner.learner import Learner
from tests.distributed.tiny_policy import CONFIG, SEED, make_batches, settings

fused_adam = pytest.importorskip(
    "transformer_engine.pytorch.optimizers.fused_adam",
    reason="no Transformer Engine",
    exc_type=ImportError,
)


def adam_kernel(
    _: int,
    __: torch.Tensor,
    lists: list[list[torch.Tensor]],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
    *modes_and_decay: Any,
) -> None:
    """What ``tex.multi_tensor_adam`` does, for AdamW with bias correction."""
    assert modes_and_decay[:2] == (1, 1)
    for grad, param, mean, square in zip(*lists, strict=True):
        mean.lerp_(grad, 1 - beta1)
        square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        root = (square / (1 - beta2**step)).sqrt() + eps
        param.sub_(lr * (mean / (1 - beta1**step) / root + modes_and_decay[2] * param))


@pytest.fixture
def megatron_takes_it(platform, monkeypatch):
    """Let Megatron build Transformer Engine's optimiser, whose tensors are the host's."""
    from megatron.core import optimizer
    from megatron.core.optimizer import clip_grads, distrib_optimizer
    from megatron.core.optimizer import optimizer as mixed_precision
    from megatron.core.utils import (
        local_multi_tensor_applier,
        local_multi_tensor_l2_norm,
        local_multi_tensor_scale,
    )

    monkeypatch.setattr(fused_adam, "torch", _TorchOnHost())
    monkeypatch.setattr(fused_adam.tex, "multi_tensor_adam", adam_kernel)
    monkeypatch.setattr(fused_adam, "multi_tensor_applier", lambda op, *rest: op(0, *rest))
    for module in (optimizer, distrib_optimizer):
        monkeypatch.setattr(module, "Adam", fused_adam.FusedAdam)
    for module in (clip_grads, mixed_precision):
        monkeypatch.setattr(module, "multi_tensor_applier", local_multi_tensor_applier)
        monkeypatch.setattr(module, "multi_tensor_scale_impl", local_multi_tensor_scale)
    monkeypatch.setattr(clip_grads, "l2_norm_impl", local_multi_tensor_l2_norm)


@pytest.mark.parametrize("num_steps", [0, 2])  # its state is made at the first step
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_goes_on_where_it_was(megatron_takes_it, parallel, platform, tmp_path, dtype, num_steps):
    def build() -> Learner:
        wanted = settings(dtype=dtype)
        return Learner(model_spec(CONFIG), wanted, parallel, platform, pretrained=None, seed=SEED)

    learner, (batch,) = build(), make_batches(1)
    assert type(learner._optimizer.chained_optimizers[0].optimizer) is fused_adam.FusedAdam
    for _ in range(num_steps):
        learner.update_supervised(batch.sequences)
    learner.save(tmp_path, 1, extra={})
    again = build()
    again.restore(tmp_path)
    (inner,) = again._optimizer.chained_optimizers
    for state in inner.optimizer.state.values():
        assert {name: value.dtype for name, value in state.items()} == {
            "exp_avg": torch.float32,
            "exp_avg_sq": torch.float32,
        }
    for one in (learner, again):
        one.update_supervised(batch.sequences)
    for (name, mine), (_, its) in zip(learner.named_weights(), again.named_weights(), strict=True):
        assert torch.equal(mine, its), name
