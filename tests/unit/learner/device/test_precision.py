"""Precisions: every field exists in Megatron, and what cannot work is refused with a remedy."""

import dataclasses
import typing

import pytest

from megatron_rl.config import Fp8Config, resolve_precision
from megatron_rl.conversion.families import model_spec
from megatron_rl.errors import ConfigError
from megatron_rl.learner.device.precision import (
    FP8_FIELDS,
    Device,
    check_fp8_sizes,
    check_precision,
    megatron_fields,
    offered_recipes,
    row_multiple,
    token_multiple,
)
from megatron_rl.model_spec import LatentAttention
from megatron_rl.parallelism.layouts import Layout
from tests.distributed.tiny_policy import CONFIG, MOE_CONFIG

ALONE = Layout(tp=1, sp=False, pp=1, vpp=1, cp=1, ep=1, etp=1)
CPU = Device(capability=None, te_version=None)
AMPERE = Device(capability=(8, 0), te_version="2.9.0")
ADA = Device(capability=(8, 9), te_version="2.9.0")
HOPPER = Device(capability=(9, 0), te_version="2.9.0+cu129")
BLACKWELL = Device(capability=(10, 0), te_version="2.9.0")
CONSUMER_BLACKWELL = Device(capability=(12, 0), te_version="2.9.0")


def test_the_precision_is_that_of_the_weights_unless_given():
    assert resolve_precision(None, dtype="float32") == "fp32"
    assert resolve_precision(None, dtype="bfloat16") == "bf16"
    assert resolve_precision(None, dtype="float16") == "fp16"
    assert resolve_precision("fp8", dtype="bfloat16") == "fp8"


def test_every_key_of_fp8_has_a_field():
    assert set(FP8_FIELDS) == set(Fp8Config.model_fields)


@pytest.mark.parametrize("key", FP8_FIELDS)
def test_every_field_exists_in_megatron_and_takes_every_value(key):
    from megatron.core.transformer import TransformerConfig

    fields = {field.name: field for field in dataclasses.fields(TransformerConfig)}
    assert FP8_FIELDS[key] in fields
    mine = typing.get_args(Fp8Config.model_fields[key].annotation)
    theirs = typing.get_args(fields[FP8_FIELDS[key]].type)
    # Optional[Literal[...]] holds its values one level deeper.
    nested = [value for part in theirs for value in typing.get_args(part)]
    if mine and isinstance(mine[0], str):
        assert set(mine) <= {*theirs, *nested}


def test_defaults_are_megatrons_but_for_format_and_recipe():
    from megatron.core.transformer import TransformerConfig

    theirs = {field.name: field.default for field in dataclasses.fields(TransformerConfig)}
    mine = megatron_fields("fp8", Fp8Config())
    differing = {name for name, value in mine.items() if value != theirs[name]}
    assert differing == {"fp8", "fp8_recipe"}


def test_recipes_are_those_that_transformer_engine_has_in_megatron():
    from megatron.core.enums import Fp8Recipe

    mine = typing.get_args(Fp8Config.model_fields["recipe"].annotation)
    assert {recipe.value for recipe in Fp8Recipe} - set(mine) == {"custom"}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_other_precisions_set_no_field_of_fp8(precision):
    assert megatron_fields(precision, Fp8Config()) == {}


@pytest.mark.parametrize(
    ("device", "recipes"),
    [
        (CPU, []),
        (AMPERE, []),
        (ADA, ["delayed", "tensorwise"]),
        (HOPPER, ["delayed", "tensorwise", "blockwise"]),
        (BLACKWELL, ["delayed", "tensorwise", "blockwise", "mxfp8"]),
        (CONSUMER_BLACKWELL, ["delayed", "tensorwise", "blockwise"]),
        (Device(capability=(9, 0), te_version="2.1.0"), ["delayed"]),
        (Device(capability=(9, 0), te_version=None), []),
    ],
)
def test_recipes_of_devices(device, recipes):
    assert offered_recipes(device) == recipes
    for recipe in recipes:
        check_precision("fp8", Fp8Config(recipe=recipe), device)


@pytest.mark.parametrize(
    ("device", "recipe", "message"),
    [
        (
            CPU,
            "tensorwise",
            'learner.precision ("fp8") with learner.fp8.recipe ("tensorwise") needs an NVIDIA GPU, '
            "and there is none here; and Transformer Engine, which is not installed; "
            'set learner.precision = "bf16"',
        ),
        (
            Device(capability=(9, 0), te_version=None),
            "tensorwise",
            'learner.precision ("fp8") with learner.fp8.recipe ("tensorwise") needs Transformer '
            "Engine, which is not installed; pip install --no-build-isolation 'megatron-rl[gpu]', "
            'or set learner.precision = "bf16"',
        ),
        (
            AMPERE,
            "delayed",
            'learner.precision ("fp8") with learner.fp8.recipe ("delayed") needs compute '
            'capability >= 8.9, this GPU has 8.0; set learner.precision = "bf16"',
        ),
        (
            HOPPER,
            "mxfp8",
            'learner.precision ("fp8") with learner.fp8.recipe ("mxfp8") needs compute capability '
            ">= 10.0, this GPU has 9.0; set learner.fp8.recipe to delayed or tensorwise or "
            'blockwise, or learner.precision = "bf16"',
        ),
        (
            Device(capability=(9, 0), te_version="2.1.0"),
            "blockwise",
            'learner.precision ("fp8") with learner.fp8.recipe ("blockwise") needs Transformer '
            "Engine >= 2.3, 2.1.0 is installed; set learner.fp8.recipe to delayed, or "
            'learner.precision = "bf16"',
        ),
    ],
)
def test_what_a_device_cannot_do_is_refused_with_a_remedy(device, recipe, message):
    with pytest.raises(ConfigError) as refusal:
        check_precision("fp8", Fp8Config(recipe=recipe), device)
    assert str(refusal.value) == message


def test_bf16_is_refused_where_only_fp16_is_fast():
    with pytest.raises(ConfigError, match=r'bf16.*8\.0.*7\.0.*learner.precision = "fp16"'):
        check_precision("bf16", Fp8Config(), Device(capability=(7, 0), te_version=None))
    for precision in ("bf16", "fp16", "fp32"):
        check_precision(precision, Fp8Config(), CPU)
        check_precision(precision, Fp8Config(), AMPERE)


@pytest.mark.parametrize("recipe", ["delayed", "tensorwise", "blockwise", "mxfp8"])
def test_tokens_are_multiples_of_what_megatron_says(recipe):
    from megatron.core.fp8_utils import get_fp8_align_size

    assert token_multiple("fp8", recipe, is_gathered=False) == get_fp8_align_size(recipe)
    assert token_multiple("bf16", recipe, is_gathered=True) == 1


@pytest.mark.parametrize(
    ("recipe", "block"), [("delayed", 1), ("tensorwise", 1), ("blockwise", 128), ("mxfp8", 32)]
)
def test_parts_of_a_row_that_are_gathered_are_of_whole_blocks(recipe, block):
    """``is_quantizable`` of Transformer Engine's quantizers, which it asserts before it gathers."""
    assert token_multiple("fp8", recipe, is_gathered=True) % block == 0


def test_a_hidden_size_of_broken_blocks_cannot_be_gathered():
    narrow = dataclasses.replace(model_spec(CONFIG), hidden_size=192, ffn_size=256)
    parts = dataclasses.replace(ALONE, tp=2, sp=True)
    with pytest.raises(ConfigError, match=r"learner\.parallel\.sp .* multiple of 128, .* is 192"):
        check_fp8_sizes(narrow, parts, recipe="blockwise")
    check_fp8_sizes(narrow, dataclasses.replace(parts, sp=False), recipe="blockwise")
    check_fp8_sizes(narrow, parts, recipe="mxfp8")


def test_latents_that_fp8_cannot_multiply_or_gather_are_named():
    latent = LatentAttention(query_rank=96, kv_rank=128, value_dim=16, mscale=0.0)
    model = dataclasses.replace(
        model_spec(CONFIG), hidden_size=128, ffn_size=128, rotary_dim=8, latent=latent
    )
    # 128 + 8 of the projection that gives the latent and the rotated part of keys.
    with pytest.raises(ConfigError, match=r"kv_lora_rank \+ qk_rope_head_dim \(136\)"):
        check_fp8_sizes(model, ALONE, recipe="tensorwise")
    model = dataclasses.replace(model, rotary_dim=16, head_dim=32)
    check_fp8_sizes(model, ALONE, recipe="blockwise")
    parts = dataclasses.replace(ALONE, tp=2, sp=True)
    with pytest.raises(ConfigError, match=r"latents that are multiples of 128, not q_lora_rank"):
        check_fp8_sizes(model, parts, recipe="blockwise")
    check_fp8_sizes(model, parts, recipe="tensorwise")


@pytest.mark.parametrize(
    ("layout", "tokens", "multiple"),
    [
        ({}, 1, 1),
        ({"cp": 2, "tp": 2, "sp": True}, 1, 8),  # 2 chunks x 2 cp x 2 tp
        ({}, 16, 16),
        ({"tp": 2}, 16, 16),  # without sp a rank multiplies whole rows
        ({"tp": 2, "sp": True}, 16, 32),
        ({"cp": 4}, 16, 64),  # every rank holds 16, in two chunks of 8
        ({"cp": 3, "tp": 2, "sp": True}, 32, 192),
    ],
)
def test_rows_leave_every_rank_a_multiple(layout, tokens, multiple):
    layout = dataclasses.replace(ALONE, **layout)
    assert row_multiple(layout, tokens=tokens) == multiple
    on_rank = multiple // layout.cp // (layout.tp if layout.sp else 1)
    assert on_rank % tokens == 0
    assert layout.cp == 1 or multiple % (2 * layout.cp) == 0


def test_sizes_that_fp8_cannot_multiply_are_named():
    # 4 heads x 16; a feed-forward of 48 makes 24 on each of two ranks.
    check_fp8_sizes(model_spec(CONFIG), ALONE, recipe="tensorwise")
    halves = dataclasses.replace(ALONE, tp=2, etp=2)
    with pytest.raises(ConfigError, match=r"multiples of 16; .*not: intermediate_size / tp \(24\)"):
        check_fp8_sizes(model_spec(CONFIG), halves, recipe="tensorwise")
    with pytest.raises(ConfigError, match=r"multiples of 32; .*not: intermediate_size / tp \(48\)"):
        check_fp8_sizes(model_spec(CONFIG), ALONE, recipe="mxfp8")


def test_blocks_that_sequence_parallelism_gathers_are_whole():
    assert token_multiple("fp8", "blockwise", is_gathered=True) == 128
    assert token_multiple("fp8", "tensorwise", is_gathered=True) == 16
    assert token_multiple("bf16", "blockwise", is_gathered=True) == 1
    model, alike = model_spec(CONFIG | {"intermediate_size": 64}), {"tp": 2, "etp": 2}
    check_fp8_sizes(model, dataclasses.replace(ALONE, **alike), recipe="blockwise")
    gathered = dataclasses.replace(ALONE, sp=True, **alike)
    with pytest.raises(ConfigError, match=r"learner\.parallel\.sp needs a hidden_size .* of 128"):
        check_fp8_sizes(model, gathered, recipe="blockwise")
    check_fp8_sizes(dataclasses.replace(model, hidden_size=256), gathered, recipe="blockwise")
    check_fp8_sizes(model, gathered, recipe="tensorwise")


def test_of_a_mixture_the_experts_count():
    with pytest.raises(ConfigError, match=r"not: moe_intermediate_size / etp \(24\)"):
        check_fp8_sizes(model_spec(MOE_CONFIG), ALONE, recipe="tensorwise")
