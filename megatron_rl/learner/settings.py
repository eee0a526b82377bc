"""What a learner needs of the configuration."""

from dataclasses import dataclass
from typing import Any

from megatron_rl.algorithm.losses import PolicyObjective


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerSettings:
    """Settings of a learner; meanings as in config.sections."""

    dtype: str
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
    megatron: dict[str, Any]
