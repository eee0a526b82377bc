"""Rotary position embedding: inverse frequencies of every kind of context extension."""

import math

import torch
from torch import Tensor

from megatron_rl.model_spec import (
    LinearScaling,
    Llama3Scaling,
    RopeScaling,
    YarnScaling,
)


def inverse_frequencies(scaling: RopeScaling | None, *, head_dim: int, theta: float) -> Tensor:
    """Return [head_dim / 2] float32 radians per position of each pair of dimensions."""
    # In the order of operations of transformers: at a far position, a last bit is a visible angle.
    periods = theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
    plain = 1.0 / periods
    if isinstance(scaling, LinearScaling):
        return plain / scaling.factor
    if isinstance(scaling, Llama3Scaling):
        return _llama3(plain, scaling)
    if isinstance(scaling, YarnScaling):
        return _yarn(periods, scaling, head_dim=head_dim, theta=theta)
    return plain


def softmax_scale(scaling: RopeScaling | None, *, head_dim: float) -> float:
    """Return what attention scores are multiplied with, the factor of YaRN included.

    Scaling rotated queries and keys is scaling their products, since all dimensions rotate.
    """
    factor = scaling.attention_factor if isinstance(scaling, YarnScaling) else 1.0
    return factor**2 / math.sqrt(head_dim)


def _llama3(plain: Tensor, scaling: Llama3Scaling) -> Tensor:
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    wavelengths = 2 * math.pi / plain
    rotations = scaling.original_max_positions / wavelengths
    kept = (rotations - low) / (high - low)
    between = (1 - kept) * plain / scaling.factor + kept * plain
    stretched = torch.where(rotations < low, plain / scaling.factor, between)
    return torch.where(rotations > high, plain, stretched)


def _yarn(periods: Tensor, scaling: YarnScaling, *, head_dim: int, theta: float) -> Tensor:
    def dimension(rotations: float) -> float:
        """Return the dimension that turns this often over the original context."""
        wavelengths = scaling.original_max_positions / (rotations * 2 * math.pi)
        return head_dim * math.log(wavelengths) / (2 * math.log(theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.is_truncated:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    width = high - low if high != low else 0.001
    kept = 1 - ((torch.arange(head_dim // 2).float() - low) / width).clamp(0, 1)
    return 1.0 / (scaling.factor * periods) * (1 - kept) + 1.0 / periods * kept
