"""Quantised tensors of a model: names, shapes and types as servers with block FP8 have them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from megatron_rl.conversion.families import float32_tensors, weight_rules
from megatron_rl.conversion.families.shapes import Shape, tensor_shapes
from megatron_rl.model_spec import ModelSpec

BLOCK = 128
"""Rows and columns of a block."""
QUANTISED_DTYPE, SCALE_DTYPE = "float8_e4m3fn", "float32"
_SCALE_SUFFIX = "_scale_inv"
# SGLang's linear layers and experts; routers, embeddings, output layers and norms stay as they are.
_LAYOUTS = frozenset({"qkv", "gate_up", "fused_gate_up", "row"})


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedTensor:
    """A tensor as servers are sent it."""

    name: str
    dtype: str
    """As torch calls it."""
    shape: Shape


def scale_name(name: str) -> str:
    """Return the name of the scales of a quantised tensor, by which values are multiplied."""
    return name + _SCALE_SUFFIX


def owner_of_scales(name: str) -> str:
    """Return the quantised tensor whose scales have a name; any other name as it is."""
    return name.removesuffix(_SCALE_SUFFIX)


def num_blocks(size: int) -> int:
    """Return how many blocks a dimension has; the last may be smaller."""
    return -(-size // BLOCK)


def quantised_tensors(spec: ModelSpec) -> frozenset[str]:
    """Return the Hugging Face tensors that servers hold in block FP8."""
    shapes = dict(tensor_shapes(spec))
    return frozenset(
        name
        for rule in weight_rules(spec)
        if rule.layout in _LAYOUTS and not rule.is_stacked
        for name in rule.huggingface
        if len(shapes[name]) == 2
    )


def served_tensors(
    spec: ModelSpec, *, dtype: str, quantised: frozenset[str]
) -> Iterator[ServedTensor]:
    """Yield every tensor that servers are sent, in the order of the rules.

    Args:
        spec: of the model.
        dtype: of tensors that are neither quantised nor always float32.
        quantised: tensors in block FP8, each of which its scales follow.
    """
    float32 = float32_tensors(spec)
    for name, shape in tensor_shapes(spec):
        if name not in quantised:
            own = "float32" if name in float32 else dtype
            yield ServedTensor(name=name, dtype=own, shape=shape)
            continue
        yield ServedTensor(name=name, dtype=QUANTISED_DTYPE, shape=shape)
        rows, cols = shape
        scales = (num_blocks(rows), num_blocks(cols))
        yield ServedTensor(name=scale_name(name), dtype=SCALE_DTYPE, shape=scales)


def quantization_config(spec: ModelSpec) -> dict[str, Any]:
    """Return ``quantization_config`` of a config.json whose weights are in block FP8."""
    quantised = quantised_tensors(spec)
    kept = {
        name.removesuffix(".weight")
        for name, shape in tensor_shapes(spec)
        if name not in quantised and len(shape) == 2
    }
    return {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [BLOCK, BLOCK],
        "modules_to_not_convert": sorted(kept),
    }
