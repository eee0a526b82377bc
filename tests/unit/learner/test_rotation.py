"""Megatron's rotation of packed rows is what Transformer Engine's kernel computes.

The kernel (fused_rope.cu) is asked for on GPUs. Its arithmetic, spelled out here in float32, has to
be that of the rotation that CPUs run, for our own frequencies and on every context-parallel rank.
"""

import itertools

import pytest
import torch
from megatron.core.models.common.embeddings.rope_utils import _apply_rotary_pos_emb_thd
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding

from megatron_rl.conversion.rope import inverse_frequencies
from megatron_rl.learner.model.rotary_tables import (
    keep_one_table_of_angles,
    keep_two_tables_of_angles,
)
from megatron_rl.model_spec import LinearScaling

EDGES = [0, 8, 24, 28, 60]
HEADS, DIM = 3, 8


class Group:
    """The part of a process group that rotation asks."""

    def __init__(self, size, rank):
        self._size, self._rank = size, rank

    def size(self):
        return self._size

    def rank(self):
        return self._rank


def kernel(rows, freqs, cp_size, cp_rank):
    """Rotate as ``fused_rope_forward_kernel`` does, token by token."""
    out = torch.empty_like(rows)
    for start, end in itertools.pairwise(edge // cp_size for edge in EDGES):
        length = end - start
        for step in range(length):
            place = step
            if cp_size > 1 and step < length // 2:
                place = step + cp_rank * length // 2
            elif cp_size > 1:
                place = length * cp_size - (cp_rank + 1) * length // 2 + step - length // 2
            first, second = rows[start + step].chunk(2, dim=-1)
            turned = torch.cat([-second, first], dim=-1)
            angles = freqs[place, 0, 0]
            out[start + step] = rows[start + step] * angles.cos() + turned * angles.sin()
    return out


@pytest.mark.parametrize("scaling", [None, LinearScaling(factor=3.0)])
@pytest.mark.parametrize(("cp_size", "cp_rank"), [(1, 0), (2, 0), (2, 1)])
def test_rotation_of_packed_rows_is_the_kernels(cp_size, cp_rank, scaling):
    torch.manual_seed(0)
    longest = max(end - start for start, end in itertools.pairwise(EDGES))
    frequencies = inverse_frequencies(scaling, head_dim=DIM, theta=10000.0)
    assert frequencies.dtype == torch.float32  # the kernel reads its angles as such
    angles = torch.outer(torch.arange(longest, dtype=torch.float32), frequencies)
    freqs = torch.cat([angles, angles], dim=-1)[:, None, None, :]
    rows = torch.randn(EDGES[-1] // cp_size, HEADS, DIM)
    edges = torch.tensor(EDGES, dtype=torch.int32)
    plain = _apply_rotary_pos_emb_thd(rows, edges, freqs, cp_group=Group(cp_size, cp_rank))
    torch.testing.assert_close(plain, kernel(rows, freqs, cp_size, cp_rank), atol=1e-6, rtol=0)


def test_rows_of_all_lengths_share_one_table_of_angles(parallel):
    def rotary():
        return RotaryEmbedding(kv_channels=DIM, rotary_percent=1.0, cp_group=parallel.cp_group)

    mine, megatrons = rotary(), rotary()
    keep_one_table_of_angles(mine)
    for length in (5, 40, 7, 12):
        assert torch.equal(mine(length, packed_seq=True), megatrons(length, packed_seq=True))
    short, longest = (mine(length, packed_seq=True) for length in (7, 40))
    assert short.untyped_storage().data_ptr() == longest.untyped_storage().data_ptr()
    # What is not packed is Megatron's business.
    assert torch.equal(mine(9, 2), megatrons(9, 2))


def test_two_tables_grow_together_and_each_is_contiguous(parallel):
    def rotary(base):
        of_base = {"rotary_percent": 1.0, "rotary_base": base, "cp_group": parallel.cp_group}
        return RotaryEmbedding(kv_channels=DIM, **of_base)

    mine = rotary(1e6)
    keep_two_tables_of_angles(mine, inverse_frequencies(None, head_dim=DIM, theta=1e4))
    for length in (5, 40, 7):
        wide, local = mine(length, packed_seq=True)
        assert wide.is_contiguous() and local.is_contiguous()  # the kernel takes them to be
        assert torch.equal(wide, rotary(1e6)(length, packed_seq=True))
        torch.testing.assert_close(local, rotary(1e4)(length, packed_seq=True))
