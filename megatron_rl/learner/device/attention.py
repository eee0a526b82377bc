"""Causal attention over packed rows with torch's scaled_dot_product_attention, on any device.

Shape letters: T = tokens of a packed row, S = sequences of a bucket, L = longest of them,
Q = query heads, G = key/value heads, D = head dimension, which is another one for values where
attention is latent.
"""

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.utils import (
    is_layer_window_attention,
    make_sharded_tensors_for_checkpoint,
)
from torch import Tensor

from megatron_rl.algorithm.packing import zigzag_indices
from megatron_rl.learner.device.attention_sinks import prepend_sinks


@dataclass
class RowParams(PackedSeqParams):
    """Lengths of a row's sequences as Megatron takes them, and where the host has them too.

    Reading them from a GPU would make the host wait for it, in every layer.
    """

    edges: tuple[int, ...] = ()
    """``cu_seqlens_q``."""


class TorchCoreAttention(MegatronModule):
    """Stand-in for TEDotProductAttention: packed (THD) or plain causal self-attention.

    A packed row is cut into buckets of sequences of similar length (powers of two), each padded
    to its longest; the work is that of the sequences, not of the square of the row. Causality
    alone keeps padding, which comes last, out of every real query's sight. A layer with a sliding
    window sees only the last tokens; rows of shorter sequences cost it nothing.

    With ``softmax_type = "learnable"`` every head has a sink, ``softmax_offset`` as Megatron's own
    attention names it; see ``attention_sinks``.
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
        assert attention_type == "self", attention_type
        if pg_collection is None:
            pg_collection = ProcessGroupCollection.use_mpu_process_groups(["tp", "cp"])
        self.cp_group = pg_collection.cp
        self.scale = 1 / math.sqrt(config.kv_channels) if softmax_scale is None else softmax_scale
        slides = is_layer_window_attention(
            config.window_size, config.window_attn_skip_freq, layer_number
        )
        # Megatron counts the tokens before a query, Hugging Face the query as well.
        self.window = config.window_size[0] + 1 if slides else None
        self.softmax_offset = None
        if config.softmax_type == "learnable":
            self.tp_group = pg_collection.tp
            num_heads = config.num_attention_heads // self.tp_group.size()
            sinks_Q = torch.nn.Parameter(torch.empty(num_heads, dtype=config.params_dtype))
            set_tensor_model_parallel_attributes(sinks_Q, True, 0, 1)
            self.softmax_offset = sinks_Q

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
            mask = causal_mask(torch.arange(len(query))[None, :], len(query), self.window)
            out = self._attend(*(x.transpose(0, 1) for x in (query, key, value)), mask)
            return out.transpose(0, 1).flatten(2)
        return self._packed(query, key, value, packed_seq_params).flatten(1)

    def _packed(self, query: Tensor, key: Tensor, value: Tensor, packed: PackedSeqParams) -> Tensor:
        on_host = packed.edges if isinstance(packed, RowParams) else ()
        cu_seqlens = on_host if on_host else tuple(packed.cu_seqlens_q.tolist())
        cp_size, cp_rank = self.cp_group.size(), self.cp_group.rank()
        if cp_size > 1:
            key, value = gather_context(key, value, cu_seqlens, self.cp_group)
        buckets = length_buckets(cu_seqlens, cp_size, cp_rank, self.window)
        if len(buckets) == 1 and buckets[0].is_whole_row:
            return self._attend(query[None], key[None], value[None], buckets[0].mask)[0]
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        pieces, places = [], []
        for bucket in buckets:
            keys = bucket.key_places.to(query.device)
            queries = bucket.query_places.to(query.device)
            attended = self._attend(query[queries], key[keys], value[keys], bucket.mask)
            real = bucket.real_slots.to(query.device)
            pieces.append(attended.flatten(0, 1)[real])
            places.append(queries.flatten()[real])
        return out.index_copy(0, torch.cat(places), torch.cat(pieces))

    def _attend(
        self,
        query_SLQD: Tensor,
        key_SLGD: Tensor,
        value_SLGD: Tensor,
        mask_SLL: Tensor | None = None,
    ) -> Tensor:
        if self.softmax_offset is None:
            return self._softmax(query_SLQD, key_SLGD, value_SLGD, mask_SLL)
        sinks_Q = self.softmax_offset.float() / self.scale
        sunk = prepend_sinks(query_SLQD, key_SLGD, value_SLGD, sinks_Q)
        if mask_SLL is not None:
            mask_SLL = F.pad(mask_SLL, (1, 0, 1, 0), value=True)
        return self._softmax(*sunk, mask_SLL)[:, 1:, :, : value_SLGD.size(-1)]

    def _softmax(
        self,
        query_SLQD: Tensor,
        key_SLGD: Tensor,
        value_SLGD: Tensor,
        mask_SLL: Tensor | None,
    ) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (query_SLQD, key_SLGD, value_SLGD))
        if q.is_cuda and (mask_SLL is not None or q.dtype == torch.float32):
            # The kernels for these know no groups; torch would compute the whole square instead.
            k, v = (x.repeat_interleave(q.size(1) // x.size(1), dim=1) for x in (k, v))
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if mask_SLL is None else mask_SLL[:, None].to(q.device),
            is_causal=mask_SLL is None,
            scale=self.scale,
            enable_gqa=q.size(1) != k.size(1),
        )
        return out.transpose(1, 2)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None
    ) -> dict[str, Any]:
        """Sinks, which are cut over the tensor-parallel ranks; nothing without them."""
        if self.softmax_offset is None:
            return {}
        return make_sharded_tensors_for_checkpoint(
            self.state_dict(keep_vars=True),
            prefix,
            {"softmax_offset": 0},
            sharded_offsets,
            tp_group=self.tp_group,
            dp_cp_group=metadata["dp_cp_group"],
        )


class Bucket:
    """Sequences of one row that are padded together.

    Keys are those of the whole row. Queries are those this context-parallel rank holds, which are
    all of them, in order, without context parallelism.
    """

    def __init__(
        self,
        spans: list[tuple[int, int]],
        row_length: int,
        cp_size: int,
        cp_rank: int,
        window: int | None,
    ) -> None:
        longest = max(end - start for start, end in spans)
        starts = torch.tensor([start for start, _ in spans])[:, None]
        lengths = torch.tensor([end - start for start, end in spans])[:, None]
        steps = torch.arange(longest)[None, :]
        # Padding points at the sequence's own last token: a valid index, never looked at.
        self.key_places = starts + torch.minimum(steps, lengths - 1)  # [S, L]
        if cp_size == 1:
            self.mask = causal_mask(steps, longest, window)
            self.query_places = self.key_places
            self.real_slots = (steps < lengths).flatten().nonzero()[:, 0]
        else:
            held = torch.arange(longest // cp_size)[None, :]
            counts = lengths // cp_size
            self.query_places = starts // cp_size + torch.minimum(held, counts - 1)
            self.real_slots = (held < counts).flatten().nonzero()[:, 0]
            positions = _zigzag_positions(held, lengths, cp_size, cp_rank)  # [S, L / cp]
            self.mask = _mask(positions, longest, window)  # [S, L / cp, L]
        self.is_whole_row = cp_size == 1 and len(spans) == 1 and longest == row_length


@functools.lru_cache(maxsize=4)
def length_buckets(
    cu_seqlens: tuple[int, ...], cp_size: int, cp_rank: int, window: int | None
) -> list[Bucket]:
    """Group the sequences of a row by the power of two that holds their length.

    Cached because every layer of a row asks the same, in the forward and the backward pass.
    """
    spans_by_size: dict[int, list[tuple[int, int]]] = {}
    for start, end in itertools.pairwise(cu_seqlens):
        if end > start:
            spans_by_size.setdefault((end - start - 1).bit_length(), []).append((start, end))
    return [
        Bucket(spans, cu_seqlens[-1], cp_size, cp_rank, window)
        for _, spans in sorted(spans_by_size.items())
    ]


def causal_mask(positions: Tensor, length: int, window: int | None) -> Tensor | None:
    """Return the mask of in-order queries, None where causality alone gives the same."""
    return None if window is None or length <= window else _mask(positions, length, window)


def _mask(positions_SL: Tensor, num_keys: int, window: int | None) -> Tensor:
    """Return [S, L, K] whether the query at a position sees a key: of the last ``window``."""
    keys = torch.arange(num_keys)
    sees = keys <= positions_SL[:, :, None]
    return sees if window is None else sees & (keys > positions_SL[:, :, None] - window)


def gather_context(
    key: Tensor, value: Tensor, cu_seqlens: tuple[int, ...], group: Any
) -> tuple[Tensor, Tensor]:
    """Return the keys and values [T, G, D] of the whole row from the parts of all ranks.

    The backward pass sums the gradients that all ranks have for a part and scatters them back.
    """
    both = torch.cat([key, value], dim=-1).contiguous()
    by_rank = gather_from_sequence_parallel_region(
        both, tensor_parallel_output_grad=True, group=group
    )
    in_order = by_rank[_order_of_row(cu_seqlens, group.size()).to(key.device)]
    whole_key, whole_value = in_order.split([key.size(-1), value.size(-1)], dim=-1)
    return whole_key, whole_value


@functools.lru_cache(maxsize=4)
def _order_of_row(cu_seqlens: tuple[int, ...], cp_size: int) -> Tensor:
    """Return where each token of the row lies when the ranks' parts are laid end to end."""
    edges = np.array(cu_seqlens)
    held = [zigzag_indices(edges, cp_size=cp_size, cp_rank=rank) for rank in range(cp_size)]
    return torch.from_numpy(np.concatenate(held)).argsort()


def _zigzag_positions(held: Tensor, lengths: Tensor, cp_size: int, cp_rank: int) -> Tensor:
    """Return the position in its sequence of each token a rank holds; see zigzag_indices."""
    chunk = lengths // (2 * cp_size)
    first, second = cp_rank * chunk, (2 * cp_size - 1 - cp_rank) * chunk
    return torch.where(held < chunk, first + held, second + held - chunk)
