"""Megatron's distributed AdamW and its learning-rate schedule."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler


def make_optimizer(
    chunks: Sequence[DistributedDataParallel],
    *,
    lr: float,
    min_lr: float | None,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    clip_grad: float,
) -> Any:
    """Shard AdamW's state over the data-parallel ranks; gradients and moments are float32.

    Megatron writes ``lr`` and ``min_lr`` into the parameter groups, where they go before those of
    the schedule.
    """
    model = chunks[0]
    config = OptimizerConfig(
        optimizer="adam",
        lr=lr,
        min_lr=lr if min_lr is None else min_lr,
        adam_beta1=beta1,
        adam_beta2=beta2,
        adam_eps=eps,
        weight_decay=weight_decay,
        clip_grad=clip_grad,
        bf16=model.config.params_dtype == torch.bfloat16,
        params_dtype=model.config.params_dtype,
        use_distributed_optimizer=True,
        overlap_param_gather=model.ddp_config.overlap_param_gather,
    )
    return get_megatron_optimizer(config, list(chunks))


def take_step(optimizer: Any) -> tuple[float, bool]:
    """Update the weights unless the gradient holds NaN or inf; a collective.

    Every rank decides alike, because the norm is that of the gradients of all.

    Returns:
        The gradient's norm before clipping, and whether the step was taken.
    """
    optimizer.prepare_grads()
    grad_norm = float(optimizer.get_grad_norm())
    if not math.isfinite(grad_norm):
        return grad_norm, False
    # Does both once more: Megatron has no door between measuring and clipping.
    optimizer.step()
    return grad_norm, True


def make_schedule(
    optimizer: Any,
    *,
    lr: float,
    min_lr: float | None,
    warmup_steps: int,
    total_steps: int,
    weight_decay: float,
) -> OptimizerParamScheduler:
    """Rise linearly to ``lr``, then stay, or decay (cosine) to ``min_lr`` at ``total_steps``.

    The very first step already learns: its rate is lr / (warmup_steps + 1). A resumed run takes
    its place in the schedule from the checkpoint and all rates from its configuration.
    """
    return OptimizerParamScheduler(
        optimizer,
        init_lr=lr / (warmup_steps + 1),
        max_lr=lr,
        min_lr=lr if min_lr is None else min_lr,
        lr_warmup_steps=warmup_steps,
        lr_decay_steps=max(total_steps, warmup_steps + 1),
        lr_decay_style="constant" if min_lr is None else "cosine",
        start_wd=weight_decay,
        end_wd=weight_decay,
        wd_incr_steps=total_steps,
        wd_incr_style="constant",
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,
    )
