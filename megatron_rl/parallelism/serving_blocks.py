"""Sizes of a server's FP8 matrices: whether SGLang can cut a model between blocks. Pure.

The conditions are those of ``validate_block_quant_shapes`` and ``create_fp8_moe_weight_`` of SGLang
0.5.21 (layers/quantization/fp8.py), and of its quantisation of activations.
"""

from collections.abc import Iterator

from megatron_rl.errors import ConfigError
from megatron_rl.model_spec import ModelSpec


def check_serving_blocks(spec: ModelSpec, *, block: int, tp: int, ep: int = 1) -> None:
    """Raise ConfigError when a server of ``tp`` ranks cannot hold the model in blocks.

    Args:
        block: rows and columns of a block.
        ep: ranks that share the experts of a layer.
    """
    broken = [f"{what} ({size})" for what, size in _sizes(spec, tp, ep) if size % block or not size]
    if broken:
        raise ConfigError(
            f'generators.quantization ("block_fp8") with generators.tp ({tp}): SGLang needs '
            f"multiples of {block} in {', '.join(broken)}; set another generators.tp, or "
            'generators.quantization = "none"'
        )


def _sizes(spec: ModelSpec, tp: int, ep: int) -> Iterator[tuple[str, int]]:
    """Yield what a rank has of every dimension that is cut, or whose blocks are."""
    yield "the hidden size", spec.hidden_size
    yield "a rank's rows of queries", spec.num_heads * spec.head_dim // tp
    # Where there are more ranks than heads, each has a copy of one.
    yield "a rank's rows of keys", max(1, spec.num_groups // tp) * spec.head_dim
    if spec.moe is None or not all(spec.moe.layers):
        yield "a rank's part of the ffn size", spec.ffn_size // tp
    if spec.moe is not None:
        yield "a rank's part of the experts' ffn size", spec.expert_ffn_size * ep // tp
        if spec.moe.shared is not None:
            yield "a rank's part of the shared expert's ffn size", spec.shared_ffn_size // tp
