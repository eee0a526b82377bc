"""Serving memory: hand arithmetic, a published figure, and what more GPUs change."""

import dataclasses

import pytest
from released import DENSE, LATENTS, MIXTURE, released_model

from megatron_rl.model_spec import LatentAttention
from megatron_rl.parallelism.parameters import num_parameters
from megatron_rl.parallelism.serving_memory import (
    cache_elements,
    estimate_serving_memory,
    least_reserve,
    reserve,
    weights_on_gpu,
)

GIB, MIB = 2**30, 2**20


def estimate(model, **changes):
    usual = {"tp": 1, "element_size": 2, "cache_element_size": 2, "gpu_bytes": 80 * GIB}
    return estimate_serving_memory(model, **(usual | changes))


@pytest.mark.parametrize("model", [DENSE, MIXTURE])
def test_one_gpu_holds_every_parameter(model):
    assert weights_on_gpu(model, tp=1) == num_parameters(model)


def test_key_heads_are_copied_where_there_are_fewer_than_gpus():
    # Per layer: 24 of queries and outputs each, 12 of keys and values each, 72 of the feed-forward
    # layer, 8 of norms; 40 of each table of the vocabulary, 4 of the last norm. Of two GPUs each
    # has half of all but keys, values and norms: 2 * (24 + 24 + 36 + 8) + 40 + 4.
    assert weights_on_gpu(DENSE, tp=2) == 2 * (12 + 12 + 24 + 36 + 8) + 40 + 4
    assert cache_elements(DENSE, tp=2) == cache_elements(DENSE, tp=1) == 2 * 2 * 1 * 3


def test_a_scaled_embedding_is_whole_on_every_gpu():
    tied = dataclasses.replace(DENSE, is_tied=True)
    scaled = dataclasses.replace(tied, embedding_scale=2.0)
    assert weights_on_gpu(scaled, tp=1) == weights_on_gpu(tied, tp=1)
    assert weights_on_gpu(scaled, tp=2) == weights_on_gpu(tied, tp=2) + 20  # half of 10 * 4


def test_a_latent_is_kept_whole_on_every_gpu():
    """DeepSeek's own figure for V3: 70.272 KB a token in bfloat16 (arXiv:2505.09343, table 1)."""
    large = dataclasses.replace(
        LATENTS,
        num_layers=61,
        rotary_dim=64,
        latent=LatentAttention(query_rank=1536, kv_rank=512, value_dim=128, mscale=1.0),
    )
    assert 2 * cache_elements(large, tp=8) == 70272
    assert cache_elements(LATENTS, tp=2) == cache_elements(LATENTS, tp=1) == 2 * (7 + 2)
    # Projections of keys and values from the latent, 7 x 2 x (3 + 4), are kept twice.
    assert weights_on_gpu(LATENTS, tp=1) == num_parameters(LATENTS) + 2 * 98


def test_a_token_takes_what_sglang_has_reported_of_a_large_mixture():
    """vllm issue 21348: Qwen3-235B-A22B, tp 4, bfloat16 cache, 367,404 tokens in 2 x 8.23 GiB."""
    model = dataclasses.replace(
        DENSE, num_layers=94, num_heads=64, num_groups=4, head_dim=128, hidden_size=4096
    )
    reported = 2 * 8.23 * GIB / 367404
    assert 2 * cache_elements(model, tp=4) == pytest.approx(reported, rel=1e-3)


def test_the_reserve_is_what_sglang_keeps_back():
    # 512 + 1.5 * 4096 + 1024 / 8 + 2 * 48 + 8 * 50 = 7280 MiB on a GPU of 24 GiB: prefills of 8 +
    # 14 + 8 + 8 + 12 numbers of tokens are captured up to a chunk of 4096.
    assert reserve(24 * GIB, tp=1, prefill_tokens=None) == 7280 * MIB
    assert reserve(80 * GIB, tp=1, prefill_tokens=None) > 10 * GIB
    assert reserve(80 * GIB, tp=1, prefill_tokens=2048) == 10 * GIB  # never less on a large GPU


def test_a_reserve_that_is_measured_is_smaller():
    assert least_reserve(tp=2) == (1536 + 256) * MIB
    assert estimate(DENSE, is_measured=True).cache > estimate(DENSE).cache
    told = {"static_fraction": 0.8}  # the user's word counts in both cases
    assert estimate(DENSE, is_measured=True, **told) == estimate(DENSE, **told)


def test_the_cache_is_what_is_left():
    memory = estimate(DENSE, gpu_bytes=10_000, static_fraction=0.5)
    # 388 parameters of 2 bytes; 12 elements of 2 bytes a token.
    assert (memory.weights, memory.reserve, memory.cache) == (776, 5000, 4224)
    assert memory.num_tokens == 4224 // 24
    assert estimate(DENSE, gpu_bytes=10_000, static_fraction=0.01).num_tokens == 0


def test_more_gpus_hold_more_tokens():
    model = released_model("Mistral-Small-24B")
    tokens = [estimate(model, tp=tp).num_tokens for tp in (1, 2, 4, 8)]
    assert tokens == sorted(tokens) and tokens[0] > 0
    assert tokens[3] > 8 * tokens[0]  # the weights are shared too
