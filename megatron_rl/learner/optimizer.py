"""Megatron's distributed AdamW and its learning-rate schedule."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
from megatron.core.optimizer import get_megatron_optimizer
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from megatron_rl.config import LossScaleConfig, OptimizerConfig

SCALING = ("loss_scale", "overflow_steps")
"""Metrics of a learner in fp16 only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What became of one optimiser step."""

    grad_norm: float
    """Before clipping."""
    is_taken: bool
    is_overflow: bool
    """Left out because fp16 overflowed, which a smaller loss scale mends."""
    loss_scale: float | None
    """Factor of this step's loss; None without loss scaling."""


def make_optimizer(
    chunks: Sequence[DistributedDataParallel],
    settings: OptimizerConfig,
    *,
    loss_scale: LossScaleConfig,
) -> Any:
    """Shard AdamW's state over the data-parallel ranks; gradients and moments are float32.

    A model in fp16 has its loss scaled from now on. Megatron writes ``lr`` and ``min_lr`` into the
    parameter groups, where they go before those of the schedule.
    """
    model = chunks[0]
    config = MegatronOptimizerConfig(
        optimizer="adam",
        lr=settings.lr,
        min_lr=_last_lr(settings),
        adam_beta1=settings.beta1,
        adam_beta2=settings.beta2,
        adam_eps=settings.eps,
        weight_decay=settings.weight_decay,
        clip_grad=settings.clip_grad,
        bf16=model.config.params_dtype == torch.bfloat16,
        fp16=model.config.params_dtype == torch.float16,
        initial_loss_scale=loss_scale.initial,
        min_loss_scale=loss_scale.minimum,
        loss_scale_window=loss_scale.window,
        hysteresis=loss_scale.hysteresis,
        params_dtype=model.config.params_dtype,
        use_distributed_optimizer=True,
        overlap_param_gather=model.ddp_config.overlap_param_gather,
    )
    optimizer = get_megatron_optimizer(config, list(chunks))
    if config.fp16:
        for chunk in chunks:
            chunk.config.grad_scale_func = optimizer.scale_loss
    return optimizer


def take_step(optimizer: Any, *, loss: float) -> Step:
    """Update the weights unless the gradient holds NaN or inf; a collective.

    Every rank decides alike, because the norm is that of the gradients of all.

    Args:
        loss: of the batch, unscaled. Where it is not finite, or the loss scale is at its minimum,
            a smaller scale would not have helped.
    """
    scaler = optimizer.chained_optimizers[0].grad_scaler
    scale = None if scaler is None else float(scaler.scale)
    has_found_inf = _prepare(optimizer)
    grad_norm = float(optimizer.get_grad_norm())
    is_taken = math.isfinite(grad_norm) and not has_found_inf
    if is_taken:
        _clip(optimizer, grad_norm)
        optimizer.step_with_ready_grads()
    can_scale_down = scaler is not None and scale > float(scaler.min_scale)
    return Step(
        grad_norm=grad_norm,
        is_taken=is_taken,
        is_overflow=not is_taken and can_scale_down and math.isfinite(loss),
        loss_scale=scale,
    )


def _prepare(optimizer: Any) -> bool:
    """Unscale the gradients, adapt the loss scale, and return whether any gradient overflowed.

    Experts that are spread over ranks have an optimiser of their own, and Megatron gives it a scale
    of its own, but there is one loss, which is multiplied by the first. So all scales have to
    change alike.
    """
    scalers = [part.grad_scaler for part in optimizer.chained_optimizers]
    before = None if scalers[0] is None else scalers[0].state_dict()
    has_found_inf = bool(optimizer.prepare_grads())  # each part looks at its own gradients
    if before is not None:
        for scaler in scalers:
            scaler.load_state_dict(before)
            scaler.update(has_found_inf)
    return has_found_inf


def step_metrics(step: Step) -> dict[str, float]:
    """Return what is recorded of a step; an overflow of fp16 is not counted as a failure."""
    metrics = {
        "policy/grad_norm": step.grad_norm,
        "policy/skipped_steps": float(not step.is_taken and not step.is_overflow),
    }
    if step.loss_scale is not None:
        values = (step.loss_scale, float(step.is_overflow))
        metrics |= {f"policy/{name}": value for name, value in zip(SCALING, values, strict=True)}
    return metrics


def _clip(optimizer: Any, grad_norm: float) -> None:
    """Scale gradients as ``step`` of Megatron's ChainedOptimizer does after measuring them.

    That method measures by itself, and would prepare scaled gradients a second time.
    """
    for part in optimizer.chained_optimizers:
        parameters = [] if part.is_stub_optimizer else part.get_parameters()
        if parameters and part.config.clip_grad > 0:
            clip_grad_by_total_norm_fp32(
                parameters, max_norm=part.config.clip_grad, total_norm=grad_norm
            )


def make_schedule(
    optimizer: Any, settings: OptimizerConfig, *, total_steps: int
) -> OptimizerParamScheduler:
    """Rise linearly to ``lr``, then stay, or decay (cosine) to ``min_lr`` at ``total_steps``.

    The very first step already learns: its rate is lr / (warmup_steps + 1), where Megatron's own
    warm-up from 0 gives it none. A resumed run takes its place in the schedule from the checkpoint
    and all rates from its configuration.
    """
    return OptimizerParamScheduler(
        optimizer,
        init_lr=settings.lr / (settings.warmup_steps + 1),
        max_lr=settings.lr,
        min_lr=_last_lr(settings),
        lr_warmup_steps=settings.warmup_steps,
        lr_decay_steps=max(total_steps, settings.warmup_steps + 1),
        lr_decay_style="constant" if settings.min_lr is None else "cosine",
        start_wd=settings.weight_decay,
        end_wd=settings.weight_decay,
        wd_incr_steps=total_steps,
        wd_incr_style="constant",
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,
    )


def _last_lr(settings: OptimizerConfig) -> float:
    return settings.lr if settings.min_lr is None else settings.min_lr
