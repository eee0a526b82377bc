"""Biases of routers, added to scores in the type of the scores."""

import torch
from megatron.core.transformer.moe.moe_utils import router_gating_linear
from megatron.core.transformer.moe.router import TopKRouter
from torch import Tensor

_TYPES = {"fp32": torch.float32, "fp64": torch.float64}
"""Of scores, for each ``moe_router_dtype``."""


def add_router_biases_apart(model: torch.nn.Module) -> None:
    """Add the biases of routers to scores, not within the product that makes them.

    Transformer Engine's product is of parameters in half precision and gives float32 scores; a bias
    within it would have to be of the result's type.
    """
    for module in model.modules():
        if isinstance(module, TopKRouter) and module.bias is not None:
            _add_apart(module)


def _add_apart(router: TopKRouter) -> None:
    assert hasattr(router, "gating"), "this megatron-core scores experts elsewhere"

    def gating(tokens: Tensor) -> Tensor:
        dtype = _TYPES.get(router.config.moe_router_dtype, tokens.dtype)
        scores = router_gating_linear(tokens, router.weight, None, dtype)
        return scores + router.bias.to(dtype)

    router.gating = gating
