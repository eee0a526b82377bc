"""Sandwich norms: the output of a branch is normalised before it is added to the residual stream.

Megatron has no place for them. The last matrix of a branch, which every rank of a tensor-parallel
group has the whole output of, or its own tokens under sequence parallelism, normalises that.
"""

import functools
from typing import Any

from megatron.core.transformer.mlp import MLP
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from torch import Tensor


def normalise_branches(block: TransformerBlockSubmodules) -> None:
    """Let attention and feed-forward of every layer end in a norm, of the block's own kind.

    Args:
        block: of dense layers, torch's or Transformer Engine's.
    """
    # Layers that are alike may share their parts.
    parts = {id(part): part for layer in block.layer_specs for part in _ends(layer)}
    for part in parts.values():
        (name,) = {"linear_proj", "linear_fc2"} & set(vars(part))
        setattr(part, name, _with_norm(getattr(part, name), block.layer_norm))


def _ends(layer: Any) -> tuple[Any, Any]:
    """Return the submodules of attention and of feed-forward, with their last matrices."""
    attention, mlp = layer.submodules.self_attention, layer.submodules.mlp
    assert mlp.module is MLP, mlp.module
    return attention.submodules, mlp.submodules


@functools.cache
def _with_norm(linear: type, norm: type) -> type:
    """Return a row-parallel linear layer that normalises its output, the sum of all ranks."""

    class NormedRowParallelLinear(linear):  # type: ignore[misc]
        def __init__(self, input_size: int, output_size: int, *, config: Any, **rest: Any) -> None:
            super().__init__(input_size, output_size, config=config, **rest)
            assert not rest["bias"], "a bias is added after the norm"
            self.post_layernorm = norm(
                config=config, hidden_size=output_size, eps=config.layernorm_epsilon
            )

        def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
            output, bias = super().forward(*args, **kwargs)
            return self.post_layernorm(output), bias

    return NormedRowParallelLinear
