"""Rotary tables of a model: the angles of every position, one table for all layers or two.

Layers that slide may have another base than those that see everything. Megatron hands one tensor to
all layers: two tables are stacked in it, and attention takes its own.
"""

from typing import Any

import torch
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.utils import is_layer_window_attention
from torch import Tensor

from megatron_rl.conversion.rope import inverse_frequencies
from megatron_rl.model_spec import ModelSpec


def set_frequencies(rotary: Any, spec: ModelSpec, device: torch.device) -> None:
    """Let Megatron's rotary embedding turn as the specification says."""
    if spec.rope_scaling is not None:
        # Megatron's own scaling knows only the constants of Llama 3.1.
        rotary.inv_freq = inverse_frequencies(
            spec.rope_scaling, head_dim=spec.rotary_dim, theta=spec.rope_theta
        ).to(device)
    if spec.local_rope_theta is None:
        keep_one_table_of_angles(rotary)
        return
    local = inverse_frequencies(None, head_dim=spec.rotary_dim, theta=spec.local_rope_theta)
    keep_two_tables_of_angles(rotary, local.to(device))


def keep_one_table_of_angles(rotary: Any) -> None:
    """Rotate every packed row by the beginning of one table, which grows with the longest row.

    Megatron keeps a table for each of the last 32 lengths: gigabytes where rows are long.
    """
    table: Tensor | None = None
    of_megatron = rotary.forward

    def forward(
        length: int, offset: int = 0, packed_seq: bool = False, cp_group: Any = None
    ) -> Tensor:
        nonlocal table
        if offset or not packed_seq:
            return of_megatron(length, offset, packed_seq, cp_group)
        if table is None or len(table) < length:
            table = rotary.get_emb(length)
        return table[:length]

    rotary.forward = forward


def keep_two_tables_of_angles(rotary: Any, local_D: Tensor) -> None:
    """Return [2, T, 1, 1, D] for packed rows: angles of layers that see all, of those that slide.

    Args:
        local_D: [D / 2] radians per position in layers that slide.
    """
    tables: Tensor | None = None

    def forward(
        length: int, offset: int = 0, packed_seq: bool = False, cp_group: Any = None
    ) -> Tensor:
        nonlocal tables
        assert packed_seq and not offset, "only packed rows are rotated by layer"
        if tables is None or tables.size(1) < length:
            tables = torch.stack([rotary.get_emb(length), _angles(length, local_D)])
        return tables[:, :length]

    rotary.forward = forward


def _angles(length: int, frequencies_D: Tensor) -> Tensor:
    steps = torch.arange(length, device=frequencies_D.device, dtype=frequencies_D.dtype)
    halves = torch.outer(steps, frequencies_D)
    return torch.cat([halves, halves], dim=-1)[:, None, None, :]


def rotate_by_layer(block: TransformerBlockSubmodules) -> None:
    """Let attention of every layer take its own of two tables."""
    for layer in block.layer_specs:
        assert issubclass(layer.submodules.self_attention.module, SelfAttention)
        layer.submodules.self_attention.module = SelfAttentionByLayer


class SelfAttentionByLayer(SelfAttention):
    """Self-attention that is handed two tables of angles."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        slides = is_layer_window_attention(
            self.config.window_size, self.config.window_attn_skip_freq, self.layer_number
        )
        self._table = int(slides)

    def forward(self, *args: Any, rotary_pos_emb: Tensor, **kwargs: Any) -> Any:
        """Attend, rotated by the layer's own table: contiguous, since kernels read it as such."""
        return super().forward(*args, rotary_pos_emb=rotary_pos_emb[self._table], **kwargs)
