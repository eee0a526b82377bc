"""Serving memory against figures that SGLang has printed on real GPUs; all public, see
docs/parallelism.md."""

import dataclasses

import pytest
from released import DENSE, released_model

from megatron_rl.parallelism.serving_memory import estimate_serving_memory

GIB = 2**30
QWEN3_8B = dataclasses.replace(
    DENSE,
    family="qwen3",
    num_layers=36,
    hidden_size=4096,
    ffn_size=12288,
    num_heads=32,
    num_groups=8,
    head_dim=128,
    vocab_size=151936,
    has_qk_norm=True,
)
MIXTURE_30B = released_model("Qwen3-30B-A3B")
MISTRAL_24B = released_model("Mistral-Small-24B")


def estimate(model, *, gib: float, fraction: float | None = None):
    return estimate_serving_memory(
        model,
        tp=1,
        element_size=2,
        cache_element_size=2,
        gpu_bytes=int(gib * GIB),
        static_fraction=fraction,
    )


@pytest.mark.parametrize(("free_gib", "tokens"), [(177.57, 992_896), (275.75, 1_707_904)])
def test_qwen3_8b_with_sglangs_own_reserve(free_gib, tokens):
    """Two GPUs of the reference logs in SGLang's folder .claude/skills/clean-startup-log."""
    memory = estimate(QWEN3_8B, gib=free_gib)
    assert memory.weights / GIB == pytest.approx(15.28, rel=0.003)  # "mem usage" after loading
    assert memory.cache_per_token == pytest.approx(2 * 68.18 * GIB / 992_896, rel=1e-3)
    assert memory.num_tokens == pytest.approx(tokens, rel=0.005)


def test_qwen3_30b_a3b_with_a_static_fraction():
    """sgl-project/sglang pull request 18263: 287.18 GiB free, fraction 0.911."""
    memory = estimate(MIXTURE_30B, gib=287.18, fraction=0.911)
    assert memory.weights / GIB == pytest.approx(56.98, rel=0.003)
    assert memory.cache / GIB == pytest.approx(204.63, rel=0.001)  # "initial available_bytes"
    assert memory.cache_per_token == pytest.approx(2 * 76.44 * GIB / 1_669_816, rel=1e-3)


def test_mistral_small_24b_a_token():
    """sgl-project/sglang pull request 14254: that version gave each of 4 stages all 40 layers."""
    memory = estimate(MISTRAL_24B, gib=80, fraction=0.8)
    assert memory.cache_per_token == pytest.approx(2 * 26.84 * GIB / 351_850, rel=1e-3)
    left = (69.15 - 0.2 * (69.15 + 8.22)) * GIB  # after the weights of a stage and the reserve
    assert left / memory.cache_per_token == pytest.approx(351_850, rel=1e-3)
