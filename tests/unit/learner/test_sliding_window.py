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
from megatron_rl.learner.device.attention_sinks import prepend_sinks

WINDOW = 5
LENGTHS = [17, 5, 6, 3, 1, 12, 31]


class OneRank:
    """A group of this process alone."""

    def size(self) -> int:
        return 1

    def rank(self) -> int:
        return 0


def core_attention(layer_number, sinks=None):
    """Return the attention of a model whose second layer slides."""
    config = TransformerConfig(
        num_layers=2,
        hidden_size=32,
        num_attention_heads=4,
        num_query_groups=2,
        kv_channels=8,
        window_size=(WINDOW - 1, 0),
        window_attn_skip_freq=[0, 1],
        softmax_type="vanilla" if sinks is None else "learnable",
    )
    groups = ProcessGroupCollection(tp=OneRank(), cp=OneRank())
    attention = TorchCoreAttention(config, layer_number, None, "self", pg_collection=groups)
    if sinks is not None:
        attention.softmax_offset.data.copy_(torch.tensor(sinks))
    return attention


def plain_attention(query_TQD, key_TGD, value_TGD, window, sinks_Q=None):
    """Softmax attention of one sequence to itself and the ``window - 1`` tokens before."""
    key_TQD, value_TQD = (x.repeat_interleave(2, 1) for x in (key_TGD, value_TGD))
    scores = torch.einsum("sqd,tqd->qst", query_TQD, key_TQD) / math.sqrt(8)
    distance = torch.arange(len(query_TQD))[:, None] - torch.arange(len(query_TQD))
    scores = scores.masked_fill((distance < 0) | (distance >= window), -math.inf)
    if sinks_Q is not None:
        scores = torch.cat([scores, sinks_Q[:, None, None].expand(-1, len(query_TQD), 1)], dim=-1)
    weights = scores.softmax(-1)[..., : len(query_TQD)]
    return torch.einsum("qst,tqd->sqd", weights, value_TQD)


# One whose head attends to hardly anything else, and one that hardly matters.
SINKS = [0.5, -9.0, 6.0, 0.0]


@pytest.mark.parametrize("sinks", [None, SINKS])
@pytest.mark.parametrize(("layer_number", "window"), [(1, 1000), (2, WINDOW)])
@pytest.mark.parametrize("lengths", [LENGTHS, [23], [WINDOW]])
def test_a_sliding_layer_sees_the_last_tokens_of_its_sequence(lengths, layer_number, window, sinks):
    torch.manual_seed(0)
    ends = [0, *itertools.accumulate(lengths)]
    row = [torch.randn(ends[-1], heads, 8, requires_grad=True) for heads in (4, 2, 2)]
    double = [x.detach().double().requires_grad_() for x in row]
    edges = torch.tensor(ends, dtype=torch.int32)
    packed = PackedSeqParams(qkv_format="thd", cu_seqlens_q=edges, cu_seqlens_kv=edges)
    attention = core_attention(layer_number, sinks)
    sinks_Q = None if sinks is None else torch.tensor(sinks).double().requires_grad_()
    actual = attention(*row, None, packed_seq_params=packed)
    expected = torch.cat(
        [
            plain_attention(*(x[start:end] for x in double), window, sinks_Q).flatten(1)
            for start, end in itertools.pairwise(ends)
        ]
    )
    torch.testing.assert_close(actual.double(), expected, atol=1e-5, rtol=0)
    upstream = torch.randn_like(actual)
    actual.backward(upstream)
    expected.backward(upstream.double())
    for mine, theirs in zip(row, double, strict=True):
        torch.testing.assert_close(mine.grad.double(), theirs.grad, atol=1e-5, rtol=0)
    if sinks_Q is not None:
        grad_Q = attention.softmax_offset.grad.double()
        torch.testing.assert_close(grad_Q, sinks_Q.grad, atol=1e-4, rtol=0)


def test_a_sink_is_exact_where_the_type_rounds_it():
    # Without its own rest 9.3125 * sqrt(8) would be rounded by up to 2^-9 of itself, and with it
    # the weight of a key; queries of zero see the sink and equal keys alone.
    sinks_Q = torch.tensor([9.3125, 9.3125])
    query, key = torch.zeros(1, 3, 2, 8), torch.randn(1, 3, 1, 8)
    value = torch.ones(1, 3, 1, 8)
    row = [x.bfloat16() for x in (query, key, value)]
    query, key, value = prepend_sinks(*row, sinks_Q * math.sqrt(8))
    assert query.dtype == key.dtype == torch.bfloat16
    scores_QT = torch.einsum("qd,td->qt", query[0, 1].double(), key[0, :, 0].double())
    torch.testing.assert_close(scores_QT[:, 0].float(), sinks_Q * math.sqrt(8), atol=0, rtol=2**-16)
    assert scores_QT[:, 1:].count_nonzero() == 0
    assert value[0, 0].count_nonzero() == 0
    assert query.size(-1) % 8 == 0


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
