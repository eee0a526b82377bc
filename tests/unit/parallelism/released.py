"""Specifications of released models, and of small ones to compute with by hand."""

import dataclasses
from pathlib import Path

from megatron_rl.conversion.families import read_model_spec
from megatron_rl.model_spec import LatentAttention, ModelSpec, MoeSpec
from megatron_rl.parallelism.layouts import Layout

RELEASED = Path(__file__).parents[2] / "released"

DENSE = ModelSpec(
    family="llama",
    num_layers=2,
    hidden_size=4,
    ffn_size=6,
    num_heads=2,
    num_groups=1,
    head_dim=3,
    vocab_size=10,
    max_positions=4096,
    norm_eps=1e-5,
    rope_theta=1e4,
    rope_scaling=None,
    rotary_dim=3,
    is_tied=False,
    num_draft_layers=0,
    has_qkv_bias=False,
    has_qk_norm=False,
    window=None,
    moe=None,
    init_std=0.02,
)
EXPERTS = MoeSpec(
    num_experts=4,
    ffn_size=5,
    experts_per_token=2,
    is_renormalised=True,
    layers=(False, True),
)
MIXTURE = dataclasses.replace(DENSE, moe=EXPERTS)
LATENTS = dataclasses.replace(
    MIXTURE,
    num_groups=2,
    head_dim=5,
    rotary_dim=2,
    latent=LatentAttention(query_rank=6, kv_rank=7, value_dim=4, mscale=0.0),
)
PLAIN_QUERIES = dataclasses.replace(
    LATENTS, latent=LatentAttention(query_rank=None, kv_rank=7, value_dim=4, mscale=0.0)
)


def layout(**changes) -> Layout:
    alone = {"tp": 1, "sp": False, "pp": 1, "vpp": 1, "cp": 1, "ep": 1, "etp": 1}
    return Layout(**(alone | changes))


def released_model(name: str) -> ModelSpec:
    return read_model_spec(RELEASED / name)
