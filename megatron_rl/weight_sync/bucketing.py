"""Buckets of bounded size, cut from a stream of named tensors. Pure."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

Bucket = list[tuple[str, Tensor]]

_LOADED_WITH_THE_NEXT = ".self_attn.q_a_proj.weight"
"""Of latent attention: SGLang makes one parameter of it and the next tensor, kv_a_proj_with_mqa. Of
two requests with one of them each it takes neither, and says nothing."""


def into_buckets(weights: Iterable[tuple[str, Tensor]], *, max_bytes: int) -> Iterator[Bucket]:
    """Yield non-empty buckets of at most ``max_bytes``, in order, reading no further than needed.

    A tensor larger than ``max_bytes`` has a bucket of its own, and one that servers load together
    with the one before it stays in that one's bucket. A bucket is yielded when the first tensor of
    the next one has been read, so at most that tensor is held besides.
    """
    bucket: Bucket = []
    held = 0
    for name, tensor in weights:
        is_joined = bool(bucket) and bucket[-1][0].endswith(_LOADED_WITH_THE_NEXT)
        if bucket and not is_joined and held + tensor.nbytes > max_bytes:
            yield bucket
            bucket, held = [], 0
        bucket.append((name, tensor))
        held += tensor.nbytes
    if bucket:
        yield bucket


def bucket_bytes(bucket: Bucket) -> int:
    """Return the size of the tensors of a bucket in bytes."""
    return sum(tensor.nbytes for _, tensor in bucket)


def is_sent_as_bytes(bucket: Bucket) -> bool:
    """Return whether a bucket has FP8, which torch does not broadcast over gloo."""
    return any(tensor.is_floating_point() and tensor.itemsize == 1 for _, tensor in bucket)


def as_bytes(bucket: Bucket) -> tuple[Bucket, Tensor]:
    """Return the bucket in the order in which it lies in a buffer, and that buffer, in bytes.

    It is what SGLang calls a flattened bucket: tensors end to end. The widest types come first, so
    that each tensor begins at a multiple of its own element.
    """
    ordered = sorted(bucket, key=lambda item: -item[1].itemsize)
    parts = [tensor.contiguous().view(-1).view(torch.uint8) for _, tensor in ordered]
    return ordered, torch.cat(parts)


def describe(name: str, tensor: Tensor) -> dict[str, Any]:
    """Return what SGLang must know to receive a tensor: name, dtype and shape, JSON."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    return {"name": name, "dtype": dtype, "shape": list(tensor.shape)}
