"""Sliding-window attention of packed rows, also where context parallelism cuts the sequences."""

import itertools
import math

import pytest
import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig

from megatron_rl.algorithm.packing import zigzag_indices
from megatron_rl.learner.device.attention import TorchCoreAttention, length_buckets

WINDOW = 5
LENGTHS = [17, 5, 6, 3, 1, 12, 31]


class OneRank:
    """A group of this process alone."""

    def size(self) -> int:
        return 1

    def rank(self) -> int:
        return 0


def core_attention(layer_number):
    """Return the attention of a model whose second layer slides."""
    config = TransformerConfig(
        num_layers=2,
        hidden_size=32,
        num_attention_heads=4,
        num_query_groups=2,
        kv_channels=8,
        window_size=(WINDOW - 1, 0),
        window_attn_skip_freq=[0, 1],
    )
    groups = ProcessGroupCollection(cp=OneRank())
    return TorchCoreAttention(config, layer_number, None, "self", pg_collection=groups)


def plain_attention(query_TQD, key_TGD, value_TGD, window):
    """Softmax attention of one sequence to itself and the ``window - 1`` tokens before."""
    key_TQD, value_TQD = (x.repeat_interleave(2, 1) for x in (key_TGD, value_TGD))
    scores = torch.einsum("sqd,tqd->qst", query_TQD, key_TQD) / math.sqrt(8)
    distance = torch.arange(len(query_TQD))[:, None] - torch.arange(len(query_TQD))
    weights = scores.masked_fill((distance < 0) | (distance >= window), -math.inf).softmax(-1)
    return torch.einsum("qst,tqd->sqd", weights, value_TQD)


@pytest.mark.parametrize(("layer_number", "window"), [(1, 1000), (2, WINDOW)])
@pytest.mark.parametrize("lengths", [LENGTHS, [23], [WINDOW]])
def test_a_sliding_layer_sees_the_last_tokens_of_its_sequence(lengths, layer_number, window):
    torch.manual_seed(0)
    ends = [0, *itertools.accumulate(lengths)]
    row = [torch.randn(ends[-1], heads, 8, requires_grad=True) for heads in (4, 2, 2)]
    double = [x.detach().double().requires_grad_() for x in row]
    edges = torch.tensor(ends, dtype=torch.int32)
    packed = PackedSeqParams(qkv_format="thd", cu_seqlens_q=edges, cu_seqlens_kv=edges)
    actual = core_attention(layer_number)(*row, None, packed_seq_params=packed)
    expected = torch.cat(
        [
            plain_attention(*(x[start:end] for x in double), window).flatten(1)
            for start, end in itertools.pairwise(ends)
        ]
    )
    torch.testing.assert_close(actual.double(), expected, atol=1e-5, rtol=0)
    upstream = torch.randn_like(actual)
    actual.backward(upstream)
    expected.backward(upstream.double())
    for mine, theirs in zip(row, double, strict=True):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, atol=1e-5, rtol=0)


def test_a_sliding_layer_slides_without_packing():
    torch.manual_seed(0)
    query, key, value = (torch.randn(9, 2, heads, 8) for heads in (4, 2, 2))
    actual = core_attention(2)(query, key, value, None)
    for b in range(2):
        expected = plain_attention(query[:, b], key[:, b], value[:, b], WINDOW).flatten(1)
        torch.testing.assert_close(actual[:, b], expected, atol=1e-5, rtol=0)


def test_rows_of_sequences_within_the_window_need_no_mask():
    (bucket,) = length_buckets((0, 4, 8), 1, 0, 4)
    assert bucket.mask is None


@pytest.mark.parametrize("window", [None, 1, WINDOW, 100])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_context_parallel_rank_sees_what_its_tokens_saw_alone(rank, window):
    edges = (0, 12, 16, 44, 64)
    held = zigzag_indices(torch.tensor(edges).numpy(), cp_size=2, cp_rank=rank)
    seen = {}
    for bucket in length_buckets(edges, 2, rank, window):
        assert bucket.mask.any(-1).all()  # a query that sees nothing would be nan
        places = bucket.query_places.flatten()
        mask = bucket.mask.flatten(0, 1)
        keys = bucket.key_places.repeat_interleave(bucket.query_places.shape[1], 0)
        for slot in bucket.real_slots.tolist():
            seen[int(held[places[slot]])] = set(keys[slot][mask[slot]].tolist())
    assert sorted(seen) == sorted(held.tolist())
    for token, keys in seen.items():
        start = max(edge for edge in edges if edge <= token)
        first = start if window is None else max(start, token - window + 1)
        assert keys == set(range(first, token + 1))
