"""A model in the terms Megatron is built from, whatever family it comes from."""

from dataclasses import dataclass

from megatron_rl.conversion.rope_scaling import RopeScaling


@dataclass(frozen=True, kw_only=True, slots=True)
class SlidingWindow:
    """Attention to the last tokens only."""

    size: int
    """Tokens a query sees, itself included."""
    layers: tuple[bool, ...]
    """Per layer, whether it slides; the others see everything before them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MoeSpec:
    """A mixture of experts in place of some or all feed-forward layers."""

    num_experts: int
    ffn_size: int
    """Inner size of one expert."""
    experts_per_token: int
    is_renormalised: bool
    """Whether the probabilities of the chosen experts are scaled to sum to 1."""
    layers: tuple[bool, ...]
    """Per layer, whether it is a mixture; the others are dense."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """A decoder-only transformer."""

    family: str
    num_layers: int
    hidden_size: int
    ffn_size: int
    """Inner size of a dense feed-forward layer."""
    num_heads: int
    num_groups: int
    head_dim: int
    vocab_size: int
    max_positions: int
    norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    has_qk_norm: bool
    has_qkv_bias: bool
    window: SlidingWindow | None
    moe: MoeSpec | None
    is_tied: bool
    init_std: float
    """Standard deviation of random weights."""
