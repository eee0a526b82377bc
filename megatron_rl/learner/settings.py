"""What a learner needs of the configuration."""

from dataclasses import dataclass
from typing import Any

from megatron_rl.algorithm.losses import PolicyObjective
from megatron_rl.config import Fp8Config, LossScaleConfig, Precision


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerSettings:
    """Settings of a learner; meanings as in config.sections."""

    dtype: str
    """Of the weights as they are published and exported."""
    precision: Precision
    fp8: Fp8Config
    loss_scale: LossScaleConfig
    token_budget: int
    logprob_chunk_tokens: int
    fp32_lm_head: bool
    temperature: float
    objective: PolicyObjective | None
    """None for a learner that only scores or learns from demonstrations."""
    lr: float
    min_lr: float | None
    warmup_steps: int
    total_steps: int
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    clip_grad: float
    overlap_grad_reduce: bool
    overlap_param_gather: bool
    weight_batch_bytes: int
    """Most bytes of weights that are gathered at a time to be published or exported."""
    megatron: dict[str, Any]
