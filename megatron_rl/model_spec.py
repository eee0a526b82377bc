"""Specification of a model: its sizes and features, whatever family it comes from.

The one record of a model: conversion reads it from a config.json, the learner builds it, and
parallelism counts its parameters, FLOPs and memory. Plain data, without torch.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearScaling:
    """All positions divided by ``factor``."""

    factor: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Llama3Scaling:
    """Long wavelengths stretched, short ones kept, those between interpolated (Llama 3.1)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclass(frozen=True, kw_only=True, slots=True)
class YarnScaling:
    """YaRN (arXiv:2309.00071)."""

    factor: float
    beta_fast: float
    beta_slow: float
    original_max_positions: int
    is_truncated: bool
    """Whether the ends of the ramp are rounded to whole dimensions."""
    attention_factor: float
    """Scale of the rotated queries and of the rotated keys."""


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling


@dataclass(frozen=True, kw_only=True, slots=True)
class SlidingWindow:
    """Attention to the last tokens only."""

    size: int
    """Tokens a query sees, itself included."""
    layers: tuple[bool, ...]
    """Per layer, whether it slides; the others see everything before them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2): heads made from one small vector of a token.

    The last ``rotary_dim`` dimensions of a head's query and key are rotated, and all heads share
    those of the key.
    """

    query_rank: int | None
    """Size of the vector that queries are made from; None makes them from the token itself."""
    kv_rank: int
    """Size of the vector that keys and values are made from."""
    value_dim: int
    """Dimensions of a head's value."""
    mscale: float
    """Of YaRN: scores are multiplied with (0.1 mscale ln(factor) + 1)^2; 0 multiplies with 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedExpert:
    """An expert that every token is given to, beside those it chooses."""

    ffn_size: int
    """Inner size."""
    has_gate: bool
    """Whether a sigmoid of the token scales what it gives."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SigmoidRouting:
    """Experts chosen by sigmoid scores to which a trained bias is added (DeepSeek-V3).

    The bias takes part in the choice alone, and learns from the load of the experts, not from a
    gradient: reinforcement learning leaves it as it is.
    """

    scale: float
    """Factor of the chosen experts' scores, which are scaled to sum to 1 before."""
    num_groups: int
    """Equal groups of neighbouring experts; those of the best groups can be chosen."""
    groups_per_token: int
    """Groups that a token may choose from."""


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
    shared: SharedExpert | None = None
    routing: SigmoidRouting | None = None
    """None for a softmax over the experts' scores."""
    softmax_factor: float = 1.0
    """Factor of the probabilities that the softmax gives the chosen experts."""


Activation = Literal["silu", "gelu_tanh", "clamped"]
"""Function of the gate of a feed-forward layer; gelu_tanh is GELU's approximation by a tanh.

clamped is gpt-oss's, ``(up + 1) * gate * sigmoid(1.702 * gate)``, of a gate of at most 7 and an up
projection from -7 to 7.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """A decoder-only transformer with gated feed-forward layers."""

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
    rotary_dim: int
    """Dimensions of a head that are rotated, its first ones, or its last of latent attention; the
    others know no positions."""
    has_qk_norm: bool
    has_qkv_bias: bool
    window: SlidingWindow | None
    moe: MoeSpec | None
    is_tied: bool
    num_draft_layers: int
    """Layers after the last that only draft tokens; they are neither trained nor published."""
    init_std: float
    """Standard deviation of random weights."""
    is_interleaved: bool = False
    """Whether neighbouring dimensions of a head are rotated together, instead of its halves."""
    has_linear_biases: bool = False
    """Whether all that is multiplied has a bias, but for the output layer: queries, keys and
    values, the output of attention, routers, and both layers of an expert."""
    has_sinks: bool = False
    """Whether each head has a sink: a trained logit, in the softmax, of no key and no value."""
    has_sandwich_norms: bool = False
    """Whether the output of attention and of feed-forward is normalised before it is added."""
    has_centred_norms: bool = False
    """Whether a norm scales by 1 + its weight."""
    activation: Activation = "silu"
    embedding_scale: float = 1.0
    """Factor of embedded tokens, but not of the output layer that is tied to the embedding."""
    query_pre_attn_scalar: float | None = None
    """Attention scores are divided by its square root; None for ``head_dim``."""
    local_rope_theta: float | None = None
    """Theta of the layers that slide, which then have no context extension; None for that of all
    layers."""

    latent: LatentAttention | None = None
    """None for attention whose queries, keys and values are projections of the token."""

    @property
    def interleaved_dim(self) -> int:
        """Dimensions of a head whose neighbours are rotated together; 0 where halves are."""
        return self.rotary_dim if self.is_interleaved else 0

    @property
    def value_dim(self) -> int:
        """Dimensions of a head's value."""
        return self.head_dim if self.latent is None else self.latent.value_dim

    @property
    def num_experts(self) -> int:
        """Experts of a mixture layer; 0, like the two below, for a model without any."""
        return 0 if self.moe is None else self.moe.num_experts

    @property
    def expert_ffn_size(self) -> int:
        """Inner size of one expert."""
        return 0 if self.moe is None else self.moe.ffn_size

    @property
    def experts_per_token(self) -> int:
        """Experts that a token is given to."""
        return 0 if self.moe is None else self.moe.experts_per_token

    @property
    def shared_ffn_size(self) -> int:
        """Inner size of the expert that every token is given to; 0 without one."""
        shared = None if self.moe is None else self.moe.shared
        return 0 if shared is None else shared.ffn_size

    @property
    def mixtures(self) -> tuple[bool, ...]:
        """Per layer, whether it is a mixture of experts."""
        return (False,) * self.num_layers if self.moe is None else self.moe.layers

    @property
    def windows(self) -> tuple[int | None, ...]:
        """Per layer, how many tokens a query sees, itself included; None for all before it."""
        if self.window is None:
            return (None,) * self.num_layers
        size = self.window.size
        return tuple(size if slides else None for slides in self.window.layers)
