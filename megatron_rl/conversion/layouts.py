"""Tensor layouts of Megatron and Hugging Face, both directions, and their tensor-parallel shards.

Shape letters: Q = query heads, G = query groups (key/value heads), D = head dim, H = hidden size,
F = feed-forward size, V = vocabulary. Every function takes weights [out, H] and biases [out].
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Layout = Literal[
    "replicated",
    "column",
    "row",
    "row_of_inputs",
    "vocab",
    "qkv",
    "gate_up",
    "fused_gate_up",
    "gate_up_in_turns",
]
"""Layout of one Megatron parameter: its Hugging Face tensors, and its tensor-parallel cut:

* replicated: one tensor, the same on every rank.
* column, vocab: one tensor, cut along its outputs; vocab is padded to a multiple of the ranks.
* row: one tensor, cut along its inputs; its bias, which has none, is replicated.
* row_of_inputs: the same, of a tensor [in, out].
* qkv: query, key, value; see :func:`merge_qkv`.
* gate_up: gate and up projection; each rank holds its part of the gate, then of up.
* fused_gate_up: the same, and Hugging Face has them in one tensor too.
* gate_up_in_turns: the same, of one tensor [in, 2F] whose columns are of gate and up in turns.
"""


def merge_qkv(q: Tensor, k: Tensor, v: Tensor, *, num_groups: int) -> Tensor:
    """Merge q [Q*D, H], k [G*D, H], v [G*D, H] into Megatron's linear_qkv [(Q + 2G) * D, H].

    Megatron interleaves by group: each group stores its queries, then its key, then its value.
    """
    parts = [part.reshape(num_groups, -1, *part.shape[1:]) for part in (q, k, v)]
    return torch.cat(parts, dim=1).flatten(0, 1)


def split_qkv(fused: Tensor, *, num_groups: int, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inverse of :func:`merge_qkv`."""
    grouped = fused.reshape(num_groups, -1, *fused.shape[1:])
    queries = grouped.shape[1] - 2 * head_dim
    q, k, v = grouped.split([queries, head_dim, head_dim], dim=1)
    return q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)


def to_halves(rows: Tensor, *, head_dim: int, rotary_dim: int) -> Tensor:
    """Reorder rows [heads * D, ...] so that rotating halves does what rotating neighbours did.

    The first ``rotary_dim`` dimensions of a head are rotated, 0 with 1, 2 with 3 and so on; the
    even ones come first afterwards. Queries and keys are reordered alike, so their products stay.
    """
    heads = rows.reshape(-1, head_dim, *rows.shape[1:])
    turned = heads[:, :rotary_dim]
    parts = [turned[:, 0::2], turned[:, 1::2], heads[:, rotary_dim:]]
    return torch.cat(parts, dim=1).flatten(0, 1)


def to_neighbours(rows: Tensor, *, head_dim: int, rotary_dim: int) -> Tensor:
    """Inverse of :func:`to_halves`."""
    heads = rows.reshape(-1, head_dim, *rows.shape[1:])
    halves = heads[:, :rotary_dim].chunk(2, dim=1)
    turned = torch.stack(halves, dim=2).flatten(1, 2)
    return torch.cat([turned, heads[:, rotary_dim:]], dim=1).flatten(0, 1)


def pad_vocab(weight: Tensor, *, padded_size: int) -> Tensor:
    """Append zero rows to [V, H] up to ``padded_size``."""
    missing = padded_size - weight.shape[0]
    assert missing >= 0, (weight.shape, padded_size)
    return torch.cat([weight, weight.new_zeros(missing, *weight.shape[1:])])


def padded_vocab_size(vocab_size: int, *, tp_size: int) -> int:
    """Return the smallest multiple of ``tp_size`` that holds the vocabulary."""
    return -(-vocab_size // tp_size) * tp_size


def to_megatron(
    layout: Layout,
    tensors: Sequence[Tensor],
    *,
    num_groups: int,
    head_dim: int,
    interleaved_dim: int,
    tp_size: int,
) -> Tensor:
    """Build the whole (uncut) Megatron parameter from its Hugging Face tensors.

    Args:
        interleaved_dim: dimensions of a head whose neighbours are rotated together in the Hugging
            Face tensors: Megatron rotates halves. 0 where Hugging Face does so as well.
    """
    if layout == "qkv":
        q, k, v = tensors
        if interleaved_dim:
            q, k = (to_halves(x, head_dim=head_dim, rotary_dim=interleaved_dim) for x in (q, k))
        return merge_qkv(q, k, v, num_groups=num_groups)
    if layout == "gate_up":
        return torch.cat(list(tensors))
    (tensor,) = tensors
    if layout == "gate_up_in_turns":
        rows = tensor.movedim(-1, 0)
        return torch.cat([rows[0::2], rows[1::2]])
    if layout == "row_of_inputs":
        return tensor.t()
    if layout == "vocab":
        padded = padded_vocab_size(tensor.shape[0], tp_size=tp_size)
        return pad_vocab(tensor, padded_size=padded)
    return tensor


def to_huggingface(
    layout: Layout,
    whole: Tensor,
    *,
    num_groups: int,
    head_dim: int,
    interleaved_dim: int,
    vocab_size: int,
) -> tuple[Tensor, ...]:
    """Inverse of :func:`to_megatron`."""
    if layout == "qkv":
        q, k, v = split_qkv(whole, num_groups=num_groups, head_dim=head_dim)
        if interleaved_dim:
            q, k = (to_neighbours(x, head_dim=head_dim, rotary_dim=interleaved_dim) for x in (q, k))
        return q, k, v
    if layout == "gate_up":
        return whole.chunk(2)
    if layout == "gate_up_in_turns":
        return (torch.stack(whole.chunk(2), dim=1).flatten(0, 1).movedim(0, -1),)
    if layout == "row_of_inputs":
        return (whole.t(),)
    if layout == "vocab":
        return (whole[:vocab_size],)
    return (whole,)


def shard(layout: Layout, whole: Tensor, *, tp_size: int, tp_rank: int) -> Tensor:
    """Cut the part of one tensor-parallel rank out of a whole Megatron parameter."""
    if layout == "replicated" or (layout == "row" and whole.dim() == 1):
        return whole
    if layout in ("row", "row_of_inputs"):
        return whole.chunk(tp_size, dim=1)[tp_rank]
    if layout in ("gate_up", "fused_gate_up", "gate_up_in_turns"):
        return torch.cat([half.chunk(tp_size)[tp_rank] for half in whole.chunk(2)])
    return whole.chunk(tp_size)[tp_rank]


def unshard(layout: Layout, parts: Sequence[Tensor]) -> Tensor:
    """Inverse of :func:`shard`, given the parts of all ranks in order."""
    if layout == "replicated" or (layout == "row" and parts[0].dim() == 1):
        return parts[0]
    if layout in ("row", "row_of_inputs"):
        return torch.cat(list(parts), dim=1)
    if layout in ("gate_up", "fused_gate_up", "gate_up_in_turns"):
        halves = [part.chunk(2) for part in parts]
        return torch.cat([half[i] for i in (0, 1) for half in halves])
    return torch.cat(list(parts))
