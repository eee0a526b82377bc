"""Rotary frequencies: those of transformers to the last bit, and what they mean."""

import math

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from megatron_rl.conversion.families.rope_fields import read_rope, yarn_attention_factor
from megatron_rl.conversion.rope import inverse_frequencies, softmax_scale
from megatron_rl.model_spec import (
    LinearScaling,
    Llama3Scaling,
    YarnScaling,
)
from tests.tiny_models import BASE, LLAMA3, YARN, YARN_STATED, rope

TABLES = {
    "linear": rope("linear", factor=3.0),
    "llama3": LLAMA3,
    "llama3 of the real size": rope(
        "llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=8192,
    ),
    "yarn": YARN,
    "yarn, everything stated": YARN_STATED,
    "yarn with scales": rope(
        "yarn",
        factor=40.0,
        original_max_position_embeddings=64,
        mscale=0.707,
        mscale_all_dim=1.2,
    ),
    "yarn of the whole context": rope("yarn", factor=2.0),
}


@pytest.mark.parametrize("head_dim", [16, 128])
@pytest.mark.parametrize("name", TABLES)
def test_frequencies_and_factor_are_those_of_transformers(name, head_dim):
    table = TABLES[name]
    config = transformers.LlamaConfig(**BASE | {"head_dim": head_dim} | table)
    kind = table["rope_parameters"]["rope_type"]
    expected, factor = ROPE_INIT_FUNCTIONS[kind](config)
    theta, _, scaling = read_rope({"max_position_embeddings": 128} | table)
    assert torch.equal(inverse_frequencies(scaling, head_dim=head_dim, theta=theta), expected)
    # Queries and keys carry the factor once each.
    expected_scale = factor**2 / math.sqrt(head_dim)
    assert softmax_scale(scaling, head_dim=head_dim) == pytest.approx(expected_scale)


def test_llama3_keeps_short_wavelengths_and_stretches_long_ones():
    scaling = Llama3Scaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=8192
    )
    plain, scaled = (inverse_frequencies(s, head_dim=128, theta=500_000.0) for s in (None, scaling))
    assert scaled[0] == plain[0]  # a wavelength of 2 pi tokens
    assert scaled[-1] == plain[-1] / 8  # one of about 2.6 million
    assert (scaled <= plain).all()


def test_yarn_without_a_range_between_does_not_divide_by_zero():
    scaling = YarnScaling(
        factor=2.0,
        beta_fast=1.0,
        beta_slow=1.0,
        original_max_positions=64,
        is_truncated=False,
        attention_factor=1.0,
    )
    assert inverse_frequencies(scaling, head_dim=16, theta=1e4).isfinite().all()


def test_linear_scaling_divides_positions():
    plain, scaled = (
        inverse_frequencies(s, head_dim=8, theta=1e4) for s in (None, LinearScaling(factor=4.0))
    )
    assert torch.equal(scaled * 4, plain)


def test_the_attention_factor_of_yarn_grows_with_the_logarithm_of_the_factor():
    def factor(value, mscale=None, mscale_all_dim=None):
        return yarn_attention_factor(value, mscale=mscale, mscale_all_dim=mscale_all_dim)

    assert factor(math.e) == pytest.approx(1.1)  # 0.1 ln e + 1
    assert factor(0.5) == 1
    assert factor(math.e, 2.0, 1.0) == pytest.approx(1.2 / 1.1)
    assert factor(math.e, 2.0, 0.0) == pytest.approx(1.1)  # zero is as if not stated
