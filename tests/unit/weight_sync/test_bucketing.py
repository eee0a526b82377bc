"""Cutting a weight stream into buckets."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_rl.weight_sync.bucketing import (
    as_bytes,
    bucket_bytes,
    describe,
    into_buckets,
    is_sent_as_bytes,
)


def stream(sizes: list[int]):
    return [(f"w{i}", torch.zeros(size, dtype=torch.uint8)) for i, size in enumerate(sizes)]


def names(buckets) -> list[list[str]]:
    return [[name for name, _ in bucket] for bucket in buckets]


def test_tensors_share_a_bucket_until_it_is_full():
    # 3 + 5 fill 8 exactly; 1 + 7 as well; 8 is full by itself
    assert names(into_buckets(stream([3, 5, 1, 7, 8]), max_bytes=8)) == [
        ["w0", "w1"],
        ["w2", "w3"],
        ["w4"],
    ]


def test_a_tensor_larger_than_a_bucket_travels_alone():
    assert names(into_buckets(stream([1, 20, 1]), max_bytes=8)) == [["w0"], ["w1"], ["w2"]]


def test_what_a_server_loads_together_shares_a_bucket_however_full_it_is():
    attention = "model.layers.0.self_attn"
    tensors = [
        (f"{attention}.{name}.weight", torch.zeros(size, dtype=torch.uint8))
        for name, size in (("q_a_proj", 6), ("kv_a_proj_with_mqa", 4), ("q_b_proj", 1))
    ]
    assert [len(b) for b in into_buckets([*stream([5]), *tensors], max_bytes=8)] == [1, 2, 1]


def test_no_weights_make_no_bucket():
    assert list(into_buckets([], max_bytes=8)) == []


def test_the_stream_is_read_no_further_than_the_first_tensor_of_the_next_bucket():
    read = []

    def weights():
        for name, tensor in stream([4, 4, 4, 4]):
            read.append(name)
            yield name, tensor

    next(into_buckets(weights(), max_bytes=8))
    assert read == ["w0", "w1", "w2"]


def test_size_counts_bytes_and_not_elements():
    # 3 * 4 bytes + 5 * 2 bytes
    assert bucket_bytes([("a", torch.zeros(3)), ("b", torch.zeros(5, dtype=torch.bfloat16))]) == 22


def test_a_tensor_is_described_as_the_server_wants_it():
    tensor = torch.zeros(2, 3, dtype=torch.bfloat16)
    assert describe("w", tensor) == {"name": "w", "dtype": "bfloat16", "shape": [2, 3]}


@given(st.lists(st.integers(0, 20)), st.integers(1, 30))
def test_buckets_keep_order_lose_nothing_and_respect_the_limit(sizes, max_bytes):
    buckets = list(into_buckets(stream(sizes), max_bytes=max_bytes))
    assert [name for bucket in names(buckets) for name in bucket] == [
        f"w{i}" for i in range(len(sizes))
    ]
    assert all(bucket for bucket in buckets)
    assert all(len(bucket) == 1 or bucket_bytes(bucket) <= max_bytes for bucket in buckets)


def test_a_bucket_with_fp8_is_sent_as_bytes_that_begin_at_their_own_elements():
    eight = torch.tensor([[1.0, -2.0, 448.0]]).to(torch.float8_e4m3fn)
    bucket = [
        ("values", eight),
        ("bias", torch.tensor([0.5]).bfloat16()),
        ("scales", torch.tensor([[0.25]])),
    ]
    assert is_sent_as_bytes(bucket) and not is_sent_as_bytes(bucket[1:])
    ordered, flat = as_bytes(bucket)
    assert [name for name, _ in ordered] == ["scales", "bias", "values"]
    assert flat.dtype == torch.uint8 and flat.numel() == 4 + 2 + 3
    assert flat[:4].view(torch.float32).item() == 0.25
    assert flat[4:6].view(torch.bfloat16).item() == 0.5
    assert flat[6:].view(torch.float8_e4m3fn).float().tolist() == [1.0, -2.0, 448.0]
