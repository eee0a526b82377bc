"""Fingerprints tell every change of contents and places, and nothing else."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_rl.serving_plugin.shard_receiver import fingerprints
from megatron_rl.serving_plugin.shard_receiver.fingerprints import fingerprint

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
FLOAT8S = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu]
INTS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
DTYPES = [*FLOATS, *FLOAT8S, *INTS, torch.bool]
CHUNK = 64
"""Bytes at a time in these tests, so that borders are many."""


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(fingerprints, "_CHUNK_BYTES", CHUNK)


def of_bytes(data: bytes) -> int:
    return fingerprint(torch.tensor(list(data), dtype=torch.uint8))


def random_bytes(count: int) -> torch.Tensor:
    return torch.randint(256, (count,), dtype=torch.uint8, generator=torch.manual_seed(count))


@pytest.mark.parametrize("size", [1, 7, 8, 9, 63, 64, 65, 127, 128, 129, 200])
def test_every_single_bit_counts(size, small_chunks):
    data = random_bytes(size)
    seen = {fingerprint(data)}
    for place, bit in itertools.product(range(size), range(8)):
        changed = data.clone()
        changed[place] ^= 1 << bit
        seen.add(fingerprint(changed))
    assert len(seen) == 1 + 8 * size


@given(
    words=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=40),
    place=st.integers(0, 39),
    other=st.integers(-(2**63), 2**63 - 1),
)
def test_no_other_word_has_the_same_fingerprint(words, place, other):
    place %= len(words)
    changed = [*words[:place], other, *words[place + 1 :]]
    of = [fingerprint(torch.tensor(values)) for values in (words, changed)]
    assert (of[0] == of[1]) == (words == changed)


@given(
    words=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=40, unique=True),
    data=st.data(),
)
def test_words_that_change_places_are_told(words, data):
    one, other = data.draw(st.permutations(range(len(words))))[:2]
    swapped = list(words)
    swapped[one], swapped[other] = words[other], words[one]
    assert fingerprint(torch.tensor(words)) != fingerprint(torch.tensor(swapped))


@pytest.mark.parametrize("bit", range(64))
def test_also_where_they_differ_in_one_bit_only(bit, small_chunks):
    # Two words an even distance apart that differ in their highest bit, for one: a sum of words
    # times their places could not tell them, since 2 * 2**63 is 0 modulo 2**64.
    single = (1 << bit) - (2**64 if bit == 63 else 0)
    seen = set()
    for place in range(24):
        words = torch.full((24,), 5)
        words[place] ^= single
        seen.add(fingerprint(words))
    assert len(seen) == 24


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [0, 1, 3, 8, 63, 65, 130])
def test_every_type_has_the_fingerprint_of_its_bytes(dtype, count, small_chunks):
    data = random_bytes(count * dtype.itemsize)
    if dtype == torch.bool:
        data &= 1
    tensor = data.view(dtype)
    assert fingerprint(tensor) == of_bytes(bytes(data.tolist()))
    if count:
        data[0] ^= 1
        assert fingerprint(tensor) == of_bytes(bytes(data.tolist()))


def test_values_that_compare_equal_or_never_are_told_by_their_bits():
    assert fingerprint(torch.tensor([0.0])) != fingerprint(torch.tensor([-0.0]))
    nan = torch.tensor([float("nan")])
    assert fingerprint(nan) == fingerprint(nan.clone())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_tensor_in_any_strides_is_its_contiguous_copy(dtype):
    whole = torch.arange(2 * 6 * 5).view(2, 6, 5).to(torch.uint8)
    whole = (whole % 2 if dtype == torch.bool else whole).to(dtype)
    for view in (
        whole.transpose(0, 2),
        whole[:, 1:4, ::2],
        whole[1, 2:3].expand(4, 5),
        whole.permute(1, 0, 2)[3],
        whole[1, 2, 3],
    ):
        assert fingerprint(view) == fingerprint(view.clone(memory_format=torch.contiguous_format))
    assert fingerprint(whole[0].T) != fingerprint(whole[0])


@pytest.mark.parametrize("start", range(1, 20))
def test_it_does_not_matter_where_in_memory_a_tensor_begins(start, small_chunks):
    memory = random_bytes(300)
    part = memory[start : start + 151]
    assert fingerprint(part) == fingerprint(part.clone())
    halves = memory[: 2 * 140].view(torch.bfloat16)[start : start + 75]
    assert fingerprint(halves) == fingerprint(halves.clone())


@pytest.mark.parametrize("size", [1, 63, 64, 65, 128, 1000])
def test_chunks_do_not_show(size, monkeypatch):
    data = random_bytes(size)
    whole = fingerprint(data)
    for chunk in (8, 64, 512):
        monkeypatch.setattr(fingerprints, "_CHUNK_BYTES", chunk)
        assert fingerprint(data) == whole


def test_lengths_are_told_even_by_zeros():
    zeros = [fingerprint(torch.zeros(size, dtype=torch.uint8)) for size in range(200)]
    assert len(set(zeros)) == 200


def test_parts_laid_end_to_end_are_the_whole():
    parts = [torch.randn(3, 5), torch.randn(7), torch.randn(2, 2, 2)]
    laid = torch.cat([part.reshape(-1) for part in parts])
    again = laid.view(torch.uint8).clone()
    assert fingerprint(laid) == fingerprint(again)


def test_it_is_64_bits_and_the_same_everywhere():
    # By hand: word 1 at place 1, mixed as splitmix64 does; 8 bytes are added.
    mask = 2**64 - 1
    mixed = (1 + 0x9E3779B97F4A7C15) & mask
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
    assert fingerprint(torch.tensor([1])) == (mixed + 8) & mask
    assert fingerprint(torch.empty(0)) == fingerprint(torch.empty(0, 4, dtype=torch.bool)) == 0
    assert all(0 <= fingerprint(torch.randn(9)) < 2**64 for _ in range(20))


def test_a_tensor_is_left_as_it_is():
    tensor = torch.randn(100)
    before = tensor.clone()
    fingerprint(tensor)
    assert torch.equal(tensor, before)
    parameter = torch.nn.Parameter(torch.ones(3))
    assert fingerprint(parameter) == fingerprint(torch.ones(3))
