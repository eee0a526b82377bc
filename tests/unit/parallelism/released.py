"""Shapes of released models, and of small ones to compute with by hand."""

from pathlib import Path

from megatron_rl.conversion.families import read_model_spec
from megatron_rl.learner.shape import shape_of
from megatron_rl.parallelism.layouts import Layout
from megatron_rl.parallelism.shape import ModelShape

RELEASED = Path(__file__).parents[2] / "released"

DENSE = ModelShape(
    hidden_size=4,
    ffn_size=6,
    num_heads=2,
    num_groups=1,
    head_dim=3,
    vocab_size=10,
    is_tied=False,
    has_qkv_bias=False,
    has_qk_norm=False,
    num_experts=0,
    expert_ffn_size=0,
    experts_per_token=0,
    mixtures=(False, False),
    windows=(None, None),
)
MIXTURE_SIZES = {
    "num_experts": 4,
    "expert_ffn_size": 5,
    "experts_per_token": 2,
    "mixtures": (False, True),
}


def layout(**changes) -> Layout:
    alone = {"tp": 1, "sp": False, "pp": 1, "vpp": 1, "cp": 1, "ep": 1, "etp": 1}
    return Layout(**(alone | changes))


def released_shape(name: str) -> ModelShape:
    return shape_of(read_model_spec(RELEASED / name))
