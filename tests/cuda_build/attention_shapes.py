"""Attention of cuDNN as shapes and types only: its graphs cannot be built without a GPU.

Everything around it is Transformer Engine's own: the choice of the kernel, what it checks of its
arguments in Python, and how context-parallel ranks pass keys and values on. What arrives at the
extension is checked here as the header of ``nvte_fused_attn_fwd`` demands it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor


@contextlib.contextmanager
def attention_of_shapes() -> Iterator[list[dict[str, Any]]]:
    """Replace the extension's two functions; yield what each forward call was given."""
    import transformer_engine_torch as extension

    calls: list[dict[str, Any]] = []

    def forward(*arguments: Any) -> list[Tensor]:
        longest, _, is_training, scale, dropout = arguments[:5]
        layout, _, mask, _, window, edges, edges_kv, query, key, value = arguments[6:16]
        for tensor in (query, key, value):
            assert tensor.is_cuda and tensor.dtype in (torch.bfloat16, torch.float16), tensor.dtype
            assert tensor.stride(-1) == 1, tensor.stride()
        for tensor in (edges, edges_kv):
            assert tensor.is_cuda and tensor.dtype == torch.int32 and tensor.dim() == 1
        assert query.dim() == 3 and query.shape[0] <= longest * (len(edges) - 1)
        assert key.shape[:2] == value.shape[:2] and query.shape[1] % key.shape[1] == 0
        calls.append(
            {
                "tokens": query.shape[0],
                "longest": longest,
                "sequences": len(edges) - 1,
                "layout": layout.name,
                "mask": mask.name,
                "window": tuple(window),
                "scale": scale,
                "dropout": dropout,
                "is_training": is_training,
            }
        )
        out = query.new_empty((*query.shape[:2], value.shape[-1]))
        stats = query.new_empty((*query.shape[:2], 1), dtype=torch.float32)
        return [out, stats, query.new_empty(2, dtype=torch.int64)]

    def backward(*arguments: Any) -> list[Tensor | None]:
        query, key, value, out, gradient = arguments[13:18]
        assert gradient.shape == out.shape and gradient.dtype == out.dtype
        return [torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None]

    with (
        patch.object(extension, "fused_attn_fwd", forward),
        patch.object(extension, "fused_attn_bwd", backward),
    ):
        yield calls
