"""Block FP8: the numbers are those of SGLang's own quantisation, and of every other one's."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from family_configs import CONFIGS, DEEPSEEK_V3, GPT_OSS, QWEN3_MOE
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.integrations.finegrained_fp8 import Fp8Quantize

from megatron_rl.conversion.block_fp8.blocks import quantise_blocks, quantised_weights
from megatron_rl.conversion.block_fp8.tensors import (
    quantised_tensors,
    quantization_config,
    served_tensors,
)
from megatron_rl.conversion.families import model_spec
from megatron_rl.conversion.families.shapes import tensor_shapes

SERVING = Path(__file__).parents[3] / ".venv-serve"
SHAPES = [(128, 128), (1, 1), (127, 129), (256, 512), (300, 500), (640, 128)]


def matrix(shape: tuple[int, int], seed: int, *, scale: float = 0.02) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.rand(shape[0], 1, generator=generator).exp()
    return (torch.randn(shape, generator=generator) * rows * scale).bfloat16()


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


@pytest.fixture(scope="module")
def of_sglang():
    """SGLang's own function, of the installed package, which is in another environment."""
    found = list(SERVING.glob("lib/python*/site-packages/sglang/benchmark/deepseek_utils.py"))
    if not found:
        pytest.skip("no serving environment in .venv-serve")
    spec = importlib.util.spec_from_file_location("sglang_deepseek_utils", found[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.per_block_cast_to_fp8


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [0.0, 1e-7, 0.02, 1e4])
def test_values_and_scales_are_those_of_sglangs_own_function(of_sglang, shape, scale):
    weights = matrix(shape, seed=1, scale=scale)
    values, scales = quantise_blocks(weights)
    expected_values, expected_scales = of_sglang(weights)
    assert values.dtype == expected_values.dtype and scales.dtype == expected_scales.dtype
    assert torch.equal(bits(values), bits(expected_values))
    assert torch.equal(bits(scales), bits(expected_scales))


@pytest.mark.parametrize("shape", [(128, 128), (256, 512), (640, 128)])
def test_values_are_those_of_transformers_and_scales_but_for_its_second_division(shape):
    config = SimpleNamespace(weight_block_size=[128, 128], scale_fmt=None)
    theirs = Fp8Quantize(SimpleNamespace(quantization_config=config))
    weights = matrix(shape, seed=2)
    values, scales = quantise_blocks(weights)
    found = theirs.convert({"a.weight": weights})
    assert torch.equal(bits(values), bits(found["a.weight"]))
    # 1 / (448 / a) there, and a / 448 here: a unit in the last place.
    torch.testing.assert_close(scales, found["a.weight_scale_inv"], rtol=2**-23, atol=0)


def test_numbers_computed_by_hand():
    weights = torch.zeros(129, 2)
    weights[0] = torch.tensor([448.0, -1.0])
    weights[128] = torch.tensor([0.875, 0.25])
    values, scales = quantise_blocks(weights.bfloat16())
    # 448 / 448 and 0.875 / 448 = 1 / 512; 0.25 * 512 = 128.
    assert scales.tolist() == [[1.0], [0.001953125]]
    assert values.float()[[0, 128]].tolist() == [[448.0, -1.0], [448.0, 128.0]]


def test_what_is_no_number_stays_none():
    weights = matrix((256, 128), seed=3)
    weights[5, 7] = float("nan")
    values, scales = quantise_blocks(weights)
    assert scales.isnan().tolist() == [[True], [False]]
    assert bool(values[5, 7].float().isnan()) and not bool(values[128:].float().isnan().any())


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 400),
    cols=st.integers(1, 400),
    row_cut=st.integers(0, 3),
    col_cut=st.integers(0, 3),
)
def test_parts_cut_between_blocks_give_parts_of_the_whole(rows, cols, row_cut, col_cut):
    weights = matrix((rows, cols), seed=rows * cols)
    values, scales = quantise_blocks(weights)
    if row_cut * 128 >= rows or col_cut * 128 >= cols:
        return
    part_values, part_scales = quantise_blocks(weights[row_cut * 128 :, col_cut * 128 :])
    assert torch.equal(bits(part_values), bits(values[row_cut * 128 :, col_cut * 128 :]))
    assert torch.equal(part_scales, scales[row_cut:, col_cut:])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["model_type"])
def test_a_stream_of_weights_has_the_names_types_and_shapes_that_are_announced(config):
    spec = model_spec(config)
    names = quantised_tensors(spec)
    weights = [(name, torch.zeros(shape).bfloat16()) for name, shape in tensor_shapes(spec)]
    stream = [
        (name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        for name, tensor in quantised_weights(weights, names)
    ]
    announced = [
        (tensor.name, tensor.dtype, tensor.shape)
        for tensor in served_tensors(spec, dtype="bfloat16", quantised=names)
        # What is always float32 is so in the learner already.
        if not tensor.name.endswith("e_score_correction_bias")
    ]
    assert announced == [item for item in stream if not item[0].endswith("correction_bias")]


def test_routers_embeddings_output_layers_and_norms_keep_their_type():
    names = quantised_tensors(model_spec(QWEN3_MOE))
    assert {name.split(".")[-2] for name in names} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    assert not any(".experts." in name for name in quantised_tensors(model_spec(GPT_OSS)))
    kept = quantization_config(model_spec(QWEN3_MOE))["modules_to_not_convert"]
    assert kept == [
        *("lm_head", "model.embed_tokens", "model.layers.0.mlp.gate", "model.layers.1.mlp.gate")
    ]
    assert (
        "model.layers.0.self_attn.kv_b_proj"
        in (quantization_config(model_spec(DEEPSEEK_V3))["modules_to_not_convert"])
    )
