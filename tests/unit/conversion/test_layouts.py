"""Layouts: one example by hand, and every direction undone by its inverse."""

import pytest
import torch

from megatron_rl.conversion.layouts import (
    merge_qkv,
    pad_vocab,
    padded_vocab_size,
    shard,
    split_qkv,
    to_halves,
    to_huggingface,
    to_megatron,
    to_neighbours,
    unshard,
)

G, Q, D, H, F, V = 4, 8, 4, 5, 12, 13
SHAPES = {
    "replicated": [(H,)],
    "column": [(F, H)],
    "row": [(H, F)],
    "vocab": [(V, H)],
    "qkv": [(Q * D, H), (G * D, H), (G * D, H)],
    "row_of_inputs": [(F, H)],
    "gate_up": [(F, H), (F, H)],
    "fused_gate_up": [(2 * F, H)],
    "gate_up_in_turns": [(H, 2 * F)],
}
WITH_BIAS = [
    *((layout, shapes) for layout, shapes in SHAPES.items()),
    *(
        (layout, [shape[:1] for shape in SHAPES[layout]])
        for layout in ("column", "row", "vocab", "qkv", "gate_up", "fused_gate_up")
    ),
    ("gate_up_in_turns", [(2 * F,)]),
]


ONE_DIMENSION = {"num_groups": 2, "head_dim": 1, "interleaved_dim": 0}


def numbered(shape, start):
    count = torch.Size(shape).numel()
    return torch.arange(start, start + count, dtype=torch.float32).reshape(shape)


def huggingface_tensors(shapes):
    return [numbered(shape, 1000 * i) for i, shape in enumerate(shapes)]


def test_megatron_interleaves_queries_keys_and_values_by_group():
    # Two groups, two queries each, head dimension 1: q0 q1 | q2 q3 with k0 | k1 and v0 | v1.
    q, k, v = torch.tensor([0, 1, 2, 3]), torch.tensor([10, 11]), torch.tensor([20, 21])
    assert merge_qkv(q, k, v, num_groups=2).tolist() == [0, 1, 10, 20, 2, 3, 11, 21]


def test_split_undoes_merge_for_weights_and_biases():
    for trailing in [(H,), ()]:
        q, k, v = (numbered((n * D, *trailing), 100 * n) for n in (Q, G, G))
        parts = split_qkv(merge_qkv(q, k, v, num_groups=G), num_groups=G, head_dim=D)
        for part, original in zip(parts, (q, k, v), strict=True):
            assert torch.equal(part, original)


@pytest.mark.parametrize("tp_size", [1, 2, 4])
@pytest.mark.parametrize("interleaved_dim", [0, 2, D])
@pytest.mark.parametrize(("layout", "shapes"), WITH_BIAS)
def test_every_layout_round_trips_through_its_shards(layout, shapes, interleaved_dim, tp_size):
    heads = {"num_groups": G, "head_dim": D, "interleaved_dim": interleaved_dim}
    tensors = huggingface_tensors(shapes)
    whole = to_megatron(layout, tensors, **heads, tp_size=tp_size)
    parts = [shard(layout, whole, tp_size=tp_size, tp_rank=rank) for rank in range(tp_size)]
    assert len({part.shape for part in parts}) == 1
    again = unshard(layout, parts)
    assert torch.equal(again, whole)
    back = to_huggingface(layout, again, **heads, vocab_size=V)
    assert len(back) == len(tensors)
    for tensor, original in zip(back, tensors, strict=True):
        assert torch.equal(tensor, original)


def test_each_rank_holds_its_part_of_the_gate_then_of_up():
    gate, up = torch.tensor([0, 1, 2, 3]), torch.tensor([10, 11, 12, 13])
    whole = to_megatron("gate_up", [gate, up], **ONE_DIMENSION, tp_size=2)
    assert shard("gate_up", whole, tp_size=2, tp_rank=1).tolist() == [2, 3, 12, 13]
    fused = to_megatron("fused_gate_up", [torch.cat([gate, up])], **ONE_DIMENSION, tp_size=2)
    assert shard("fused_gate_up", fused, tp_size=2, tp_rank=1).tolist() == [2, 3, 12, 13]


def test_gate_and_up_are_told_apart_where_their_columns_take_turns():
    # Of two inputs: gate 0 and 1, up 10 and 11; the second input's are greater by 100.
    stored = torch.tensor([[0, 10, 1, 11], [100, 110, 101, 111]])
    whole = to_megatron("gate_up_in_turns", [stored], **ONE_DIMENSION, tp_size=1)
    assert whole.tolist() == [[0, 100], [1, 101], [10, 110], [11, 111]]


def test_a_rank_of_qkv_holds_whole_groups():
    q, k, v = torch.tensor([0, 1, 2, 3]), torch.tensor([10, 11]), torch.tensor([20, 21])
    whole = to_megatron("qkv", [q, k, v], **ONE_DIMENSION, tp_size=2)
    assert shard("qkv", whole, tp_size=2, tp_rank=1).tolist() == [2, 3, 11, 21]


def test_neighbours_that_are_rotated_together_lie_in_two_halves_afterwards():
    # Two heads of six dimensions, of which four are rotated: 0 with 1, and 2 with 3.
    rows = torch.arange(12)
    halves = to_halves(rows, head_dim=6, rotary_dim=4)
    assert halves.tolist() == [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11]
    assert torch.equal(to_neighbours(halves, head_dim=6, rotary_dim=4), rows)


def test_the_vocabulary_is_padded_with_zero_rows_to_a_multiple_of_the_ranks():
    assert [padded_vocab_size(13, tp_size=n) for n in (1, 2, 4, 13)] == [13, 14, 16, 13]
    padded = pad_vocab(torch.ones(3, 2), padded_size=4)
    assert padded.tolist() == [[1, 1], [1, 1], [1, 1], [0, 0]]
