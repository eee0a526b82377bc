"""Tensor-parallel sizes of a server: those that SGLang's own assertions let pass, and no other."""

from dataclasses import replace
from pathlib import Path

import pytest

from megatron_rl.conversion.families import read_model_spec
from megatron_rl.errors import ConfigError
from megatron_rl.parallelism.serving_ranks import check_serving_ranks, is_servable

RELEASED = Path(__file__).parents[2] / "released"
LLAMA_8B = read_model_spec(RELEASED / "Llama-3.1-8B")  # 32 heads, 8 for keys, ffn 14336
QWEN_30B = read_model_spec(RELEASED / "Qwen3-30B-A3B")  # 32 heads, 4 for keys, 128 x 768
SMALL = replace(LLAMA_8B, num_heads=8, num_groups=2)


@pytest.mark.parametrize("tp", [1, 2, 4, 8, 16, 32])
def test_ranks_that_divide_heads_and_repeat_keys_are_legal(tp):
    check_serving_ranks(LLAMA_8B, tp=tp)


def test_more_ranks_than_key_heads_are_legal_where_they_are_repeated():
    check_serving_ranks(SMALL, tp=8)
    check_serving_ranks(QWEN_30B, tp=8)


def test_a_size_that_does_not_divide_the_heads_is_refused_with_the_nearest_that_do():
    with pytest.raises(ConfigError) as caught:
        check_serving_ranks(SMALL, tp=3)
    # 128256 = 3 * 42752: the vocabulary could be cut.
    assert str(caught.value) == (
        "generators.tp (3) cannot cut this model in SGLang: it must divide the attention heads "
        "(8); it must divide the key/value heads (2) or be a multiple of them; it must divide the "
        "ffn size (14336); nearest legal: tp=2, tp=4"
    )


@pytest.mark.parametrize(
    ("change", "tp", "message"),
    [
        ({"num_heads": 12, "num_groups": 4, "ffn_size": 12}, 6, r"key/value heads \(4\) or be a m"),
        ({"ffn_size": 100}, 8, r"it must divide the ffn size \(100\)"),
        ({"num_heads": 36, "num_groups": 3, "ffn_size": 36, "vocab_size": 65}, 3, r"\(128\)"),
        ({}, 64, r"attention heads \(32\)"),
    ],
)
def test_every_part_that_is_cut_is_checked(change, tp, message):
    with pytest.raises(ConfigError, match=message):
        check_serving_ranks(replace(LLAMA_8B, **change), tp=tp)


def test_experts_are_cut_over_the_ranks_that_do_not_share_them():
    moe = replace(QWEN_30B.moe, ffn_size=12)
    spec = replace(QWEN_30B, moe=moe)
    with pytest.raises(ConfigError, match=r"it must divide the experts' ffn size \(12\)"):
        check_serving_ranks(spec, tp=8)
    check_serving_ranks(spec, tp=8, ep=2)  # 12 / 4
    with pytest.raises(ConfigError, match=r"ep-size \(3\) must divide it and the experts \(128\)"):
        check_serving_ranks(spec, tp=8, ep=3)
    few = replace(QWEN_30B, moe=replace(QWEN_30B.moe, num_experts=2, experts_per_token=1))
    with pytest.raises(ConfigError, match=r"must be <= the number of experts \(2\)"):
        check_serving_ranks(few, tp=4)


def test_dense_layers_count_only_where_there_are_any():
    assert is_servable(replace(QWEN_30B, ffn_size=7), tp=2)
    layers = (False, *QWEN_30B.moe.layers[1:])
    mixed = replace(QWEN_30B, ffn_size=7, moe=replace(QWEN_30B.moe, layers=layers))
    assert not is_servable(mixed, tp=2)
