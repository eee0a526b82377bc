"""Rows on the device: whole, in few transfers, and only what a pipeline stage looks at."""

import dataclasses

import numpy as np
import pytest
import torch

from megatron_rl.algorithm.packing import pack_row
from megatron_rl.learner.device_rows import context_indices, device_rows
from megatron_rl.parallelism.layouts import Layout
from megatron_rl.sequences import Sequences

LENGTHS = [5, 3, 8]
ROWS = [(0, 1), (2,)]
OF_LOSS = ("targets_T", "behavior_logprobs_T", "advantages_T", "weights_T")


class CountingPlatform:
    """A device that is the host, and counts what is sent to it."""

    def __init__(self):
        self.num_transfers = 0

    def upload(self, tensor):
        self.num_transfers += 1
        return tensor.clone()


@pytest.fixture
def rows():
    rng, total = np.random.default_rng(0), sum(LENGTHS)
    sequences = Sequences(
        token_ids_T=rng.integers(0, 50, total),
        offsets=np.cumsum([0, *LENGTHS]),
        loss_mask_T=np.ones(total, dtype=bool),
        behavior_logprobs_T=rng.normal(size=total).astype(np.float32),
        advantages_N=np.arange(3, dtype=np.float32),
        weights_N=np.full(3, 0.1, dtype=np.float32),
    )
    return [pack_row(sequences, row, sequence_multiple=4, multiple=4) for row in ROWS]


def place(parallel, *, pp=1, pp_rank=0, cp=1, cp_rank=0):
    layout = Layout(tp=1, sp=False, pp=pp, vpp=1, cp=cp, ep=1, etp=1)
    return dataclasses.replace(parallel, layout=layout, pp_rank=pp_rank, cp_rank=cp_rank)


def test_rows_arrive_whole_and_in_a_transfer_for_each_field(rows, parallel):
    platform = CountingPlatform()
    uploaded = device_rows(rows, place(parallel), platform)
    assert platform.num_transfers == 7  # 5 fields of tokens, edges and lengths
    for row, there in zip(rows, uploaded, strict=True):
        for name in ("token_ids_T", "cu_seqlens", *OF_LOSS):
            expected = torch.from_numpy(getattr(row, name))
            assert torch.equal(getattr(there, name), expected), name
            assert getattr(there, name).dtype == expected.dtype
        assert there.longest == max(there.sequence_lengths_S)
        assert int(there.sequence_lengths_S.sum()) == len(row.token_ids_T)
        assert there.old_logprobs_T is None


@pytest.mark.parametrize(
    ("pp_rank", "has_tokens", "has_loss"),
    [(0, True, False), (1, False, False), (2, False, True)],
)
def test_a_stage_gets_what_it_looks_at(pp_rank, has_tokens, has_loss, rows, parallel):
    platform = CountingPlatform()
    (row, _) = device_rows(rows, place(parallel, pp=3, pp_rank=pp_rank), platform)
    assert (row.token_ids_T is not None) == has_tokens
    assert all((getattr(row, name) is not None) == has_loss for name in OF_LOSS)
    assert row.cu_seqlens is not None
    assert platform.num_transfers == 2 + has_tokens + 4 * has_loss


def test_context_parallel_ranks_hold_every_token_once(rows, parallel):
    row = rows[0]
    parts = []
    for cp_rank in range(2):
        here = place(parallel, cp=2, cp_rank=cp_rank)
        there = device_rows(rows, here, CountingPlatform())[0]
        held = context_indices(row, here, cp_rank)
        assert there.token_ids_T.tolist() == row.token_ids_T[held].tolist()
        assert (2 * there.sequence_lengths_S).tolist() == np.diff(row.cu_seqlens).tolist()
        # Edges are those of the whole row, which attention asks for.
        assert there.cu_seqlens.tolist() == row.cu_seqlens.tolist()
        parts += held.tolist()
    assert sorted(parts) == list(range(len(row.token_ids_T)))


def test_log_probs_of_the_start_are_sent_where_there_are_some(rows, parallel):
    scored = [
        dataclasses.replace(row, old_logprobs_T=np.arange(len(row.token_ids_T), dtype=np.float32))
        for row in rows
    ]
    uploaded = device_rows(scored, place(parallel), CountingPlatform())
    for row, there in zip(scored, uploaded, strict=True):
        assert torch.equal(there.old_logprobs_T, torch.from_numpy(row.old_logprobs_T))
        assert there.reference_logprobs_T is None
