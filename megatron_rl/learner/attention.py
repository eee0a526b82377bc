"""Causal attention over packed rows with torch's scaled_dot_product_attention, on any device.

Shape letters: T = tokens of a packed row, S = sequences of a bucket, L = longest of them,
Q = query heads, G = key/value heads, D = head dimension.
"""

import functools
import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.module import MegatronModule
from torch import Tensor


class TorchCoreAttention(MegatronModule):
    """Stand-in for TEDotProductAttention: packed (THD) or plain causal self-attention.

    A packed row is cut into buckets of sequences of similar length (powers of two), each padded
    to its longest; the work is that of the sequences, not of the square of the row. Causality
    alone keeps padding, which comes last, out of every real query's sight.
    """

    def __init__(
        self,
        config: Any,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: ProcessGroupCollection | None = None,
        **_: Any,
    ) -> None:
        super().__init__(config=config)
        assert config.context_parallel_size == 1, "torch attention has no context parallelism"
        assert attention_type == "self", attention_type
        self.scale = 1 / math.sqrt(config.kv_channels) if softmax_scale is None else softmax_scale

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        attn_mask_type: Any = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> Tensor:
        """Attend; query [T, Q, D] with key, value [T, G, D] when packed, else [s, b, heads, D]."""
        assert attention_bias is None
        if packed_seq_params is None:
            out = self._attend(*(x.transpose(0, 1) for x in (query, key, value)))
            return out.transpose(0, 1).flatten(2)
        return self._packed(query, key, value, packed_seq_params).flatten(1)

    def _packed(self, query: Tensor, key: Tensor, value: Tensor, packed: PackedSeqParams) -> Tensor:
        buckets = length_buckets(tuple(packed.cu_seqlens_q.tolist()))
        if len(buckets) == 1 and buckets[0].is_whole_row:
            return self._attend(query[None], key[None], value[None])[0]
        out = torch.empty_like(query)
        pieces, places = [], []
        for bucket in buckets:
            padded = bucket.padded_positions.to(query.device)
            attended = self._attend(query[padded], key[padded], value[padded])
            real = bucket.real_slots.to(query.device)
            pieces.append(attended.flatten(0, 1)[real])
            places.append(padded.flatten()[real])
        return out.index_copy(0, torch.cat(places), torch.cat(pieces))

    def _attend(self, query_SLQD: Tensor, key_SLGD: Tensor, value_SLGD: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (query_SLQD, key_SLGD, value_SLGD))
        out = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=self.scale, enable_gqa=q.size(1) != k.size(1)
        )
        return out.transpose(1, 2)

    def sharded_state_dict(self, prefix: str = "", *_: Any, **__: Any) -> dict[str, Any]:
        """Nothing to save."""
        return {}


class Bucket:
    """Sequences of one row that are padded together."""

    def __init__(self, spans: list[tuple[int, int]], row_length: int) -> None:
        longest = max(end - start for start, end in spans)
        starts = torch.tensor([start for start, _ in spans])[:, None]
        lengths = torch.tensor([end - start for start, end in spans])[:, None]
        steps = torch.arange(longest)[None, :]
        # Padding points at the sequence's own last token: a valid index, never looked at.
        self.padded_positions = starts + torch.minimum(steps, lengths - 1)  # [S, L]
        self.real_slots = (steps < lengths).flatten().nonzero()[:, 0]
        self.is_whole_row = len(spans) == 1 and longest == row_length


@functools.lru_cache(maxsize=4)
def length_buckets(cu_seqlens: tuple[int, ...]) -> list[Bucket]:
    """Group the sequences of a row by the power of two that holds their length.

    Cached because every layer of a row asks the same, in the forward and the backward pass.
    """
    spans_by_size: dict[int, list[tuple[int, int]]] = {}
    for start, end in itertools.pairwise(cu_seqlens):
        if end > start:
            spans_by_size.setdefault((end - start - 1).bit_length(), []).append((start, end))
    return [Bucket(spans, cu_seqlens[-1]) for _, spans in sorted(spans_by_size.items())]
