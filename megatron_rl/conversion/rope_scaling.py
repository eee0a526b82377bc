"""Kinds of context extension of the rotary embedding, as plain data (without torch)."""

import math
from dataclasses import dataclass


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


def yarn_attention_factor(
    factor: float, *, mscale: float | None, mscale_all_dim: float | None
) -> float:
    """Return the attention factor of a YaRN table that does not state it."""

    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    # Zero means absent here, as it does in transformers.
    if mscale and mscale_all_dim:
        return scale(mscale) / scale(mscale_all_dim)
    return scale(1.0)
