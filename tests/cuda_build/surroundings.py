"""Learners of the CUDA platform at any layout, in one process whose other ranks are not there.

Process groups are torch's fake ones: they have the sizes of the layout, and move nothing.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from megatron_rl.config import Fp8Config
from megatron_rl.conversion.families import read_model_spec
from megatron_rl.errors import ConfigError
from megatron_rl.learner.device.parallel import (
    Parallel,
    RankInfo,
    initialize_parallel,
    shut_down_parallel,
)
from megatron_rl.learner.device.platform import Platform
from megatron_rl.learner.device.precision import (
    Device,
    check_attention,
    check_fp8_sizes,
    check_precision,
)
from megatron_rl.learner.learner import Learner, LearnerSettings
from megatron_rl.model_spec import ModelSpec
from megatron_rl.parallelism.layouts import Layout, check_layout
from megatron_rl.programs.gpu_stages.learning.policy import SETTINGS
from tests.distributed.invariance_layouts import setup_of
from tests.tiny_models import BASE, CASES

# Parts of every matrix at tp 2 are multiples of 32, which the MXFP8 recipe needs.
_SIZES = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
}
_EXPERT = {"moe_intermediate_size": 128}
_LATENT = {
    "head_dim": 32,
    "kv_lora_rank": 128,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32,
    "v_head_dim": 32,
}
PRECISIONS: Mapping[str, dict[str, Any]] = {
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    **{
        recipe: {"precision": "fp8", "fp8": Fp8Config(recipe=recipe)}
        for recipe in ("delayed", "tensorwise", "blockwise", "mxfp8")
    },
}
LAYOUTS = (
    "alone",
    "dp2",
    "tp2",
    "tp2+sp",
    "cp2",
    "cp2xtp2+sp",
    "cp4",
    "pp3",
    "ep2",
    "tp2+sp+ep2xetp1",
    "tp2+sp+ep2",
)


def spec_of(case: str, folder: Path) -> ModelSpec:
    """Return a case of tests/tiny_models.py in sizes that FP8 accepts."""
    import transformers

    prefix, fields = CASES[case]
    sizes = _SIZES | (_EXPERT if "moe_intermediate_size" in fields else {})
    if "kv_lora_rank" in fields:
        sizes |= _LATENT | ({"q_lora_rank": 128} if fields["q_lora_rank"] else {})
    groups = {
        key: None for key in ("num_key_value_heads", "head_dim") if fields.get(key, 0) is None
    }
    config = getattr(transformers, f"{prefix}Config")(**BASE | fields | sizes | groups)
    config.save_pretrained(folder)
    return read_model_spec(folder)


def layout_of(name: str) -> tuple[Layout, int]:
    """Return a layout such as tp2+sp, and its number of ranks."""
    setup = setup_of(name)
    one = {"tp": 1, "sp": False, "pp": 1, "vpp": 1, "cp": 1, "ep": 1}
    sizes = one | {key: value for key, value in setup.settings.items() if key != "token_budget"}
    return Layout(**{"etp": sizes["tp"], **sizes}), setup.num_ranks


def refusal(spec: ModelSpec, layout: Layout, precision: str, device: Device) -> str | None:
    """Return why the learner refuses a combination before it touches the GPU, else None."""
    settings = {"fp8": Fp8Config()} | PRECISIONS[precision]
    try:
        check_layout(layout, spec)
        check_precision(settings["precision"], settings["fp8"], device)
        check_attention(settings["precision"], layout, device, spec)
        if settings["precision"] == "fp8":
            check_fp8_sizes(spec, layout, recipe=settings["fp8"].recipe)
    except ConfigError as error:
        return str(error)
    return None


@contextlib.contextmanager
def ranks_of(name: str, platform: Platform, *, rank: int = 0) -> Iterator[Parallel]:
    """Be one rank of a layout whose other ranks are not there."""
    layout, world_size = layout_of(name)
    start, new_group = dist.init_process_group, dist.new_group

    def fake_start(*_: Any, **__: Any) -> None:
        start("fake", store=FakeStore(), rank=rank, world_size=world_size)

    def fake_group(*arguments: Any, **options: Any) -> Any:
        kept = {k: v for k, v in options.items() if k not in ("backend", "pg_options")}
        return new_group(*arguments, **kept)

    with (
        patch.object(dist, "init_process_group", fake_start),
        patch.object(dist, "new_group", fake_group),
    ):
        place = RankInfo(rank=rank, world_size=world_size, local_rank=0)
        parallel = initialize_parallel(place, platform, layout, seed=0)
    try:
        yield parallel
    finally:
        shut_down_parallel()


def learner_of(
    spec: ModelSpec, parallel: Parallel, platform: Platform, precision: str, **changes: Any
) -> Learner:
    """Build a learner of made-up weights."""
    settings = SETTINGS | PRECISIONS[precision] | changes
    return Learner(spec, LearnerSettings(**settings), parallel, platform, pretrained=None, seed=0)


def parameters_of(learner: Learner) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return shape and type of this rank's parameters by their names in the whole model."""
    from megatron_rl.learner.hf_weights import params_by_rule

    named = params_by_rule(learner._bare_chunks(), learner._spec, learner._parallel)
    return {
        f"{name}#{copy}": (tuple(param.shape), param.dtype)
        for name, params in named.items()
        for copy, param in enumerate(params)
    }
