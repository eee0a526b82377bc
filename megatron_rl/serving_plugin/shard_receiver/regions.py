"""Regions of a model's parameters: found by name, checked against their memory, seen as tensors."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class RefusedError(Exception):
    """An order that may not, or cannot, be carried out; no parameter has been touched."""


_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}


class Region(NamedTuple):
    """A rectangle of a parameter."""

    parameter: str
    offset: int
    """Elements from the parameter's first."""
    rows: int
    cols: int
    row_stride: int
    col_stride: int
    dtype: str
    """Type in which its elements travel."""


def tensors_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, as they are now: SGLang may replace them."""
    named: Iterator[tuple[str, Tensor]] = model.named_parameters()
    buffers = ((name, buffer) for name, buffer in model.named_buffers() if buffer is not None)
    return {name: tensor.data for name, tensor in (*named, *buffers)}


def read_region(values: Any) -> Region:
    """Return the region that JSON says; RefusedError for anything else."""
    kinds = [str, int, int, int, int, int, str]
    if not isinstance(values, list) or len(values) != len(kinds):
        raise RefusedError(f"not a region: {values!r:.100}")
    if any(type(value) is not kind for value, kind in zip(values, kinds, strict=True)):
        raise RefusedError(f"not a region: {values!r:.100}")
    region = Region(*values)
    if min(region.rows, region.cols) < 1 or min(region[1], *region[4:6]) < 0:
        raise RefusedError(f"not a region: {values!r:.100}")
    return region


def dtype_named(name: Any) -> torch.dtype:
    """Return the type of elements that a checkpoint calls so; RefusedError for another name."""
    if type(name) is not str or name not in _DTYPES:
        raise RefusedError(f"no type of elements is named {name!r:.50}")
    return _DTYPES[name]


def dtype_of(region: Region) -> torch.dtype:
    """Return the type in which a region's elements travel."""
    return dtype_named(region.dtype)


def num_bytes(region: Region) -> int:
    """Return the bytes in which a region travels."""
    return region.rows * region.cols * dtype_of(region).itemsize


def extent_of(tensor: Tensor) -> int:
    """Return how many elements of memory a tensor reaches over."""
    if not tensor.numel():
        return 0
    return sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1


def is_dense(tensor: Tensor) -> bool:
    """Return whether a tensor is all of the memory that it reaches over, in any order."""
    return tensor.numel() == extent_of(tensor)


def check_region(region: Region, tensors: Mapping[str, Tensor]) -> None:
    """Raise RefusedError unless all of a region lies in its parameter, each element once.

    Parameters of a model are whole: each has its memory to itself, from its first element to its
    last.
    """
    if region.parameter not in tensors:
        raise RefusedError(f"the model has no parameter {region.parameter!r:.200}")
    tensor = tensors[region.parameter]
    last = region.offset + (region.rows - 1) * region.row_stride
    last += (region.cols - 1) * region.col_stride
    if not is_dense(tensor):
        raise RefusedError(f"{region.parameter} is not whole in memory: {tuple(tensor.stride())}")
    if last >= tensor.numel():
        raise RefusedError(
            f"{region.parameter} has {tensor.numel()} elements, and element {last} is asked"
        )
    if not _is_nested(region):
        raise RefusedError(f"{region.parameter}: rows and columns of {region} overlap")
    dtype = dtype_of(region)
    if dtype != tensor.dtype and not (_is_wide(dtype) and _is_wide(tensor.dtype)):
        raise RefusedError(f"{region.parameter} has {tensor.dtype}, which {dtype} is not cast to")


def _is_wide(dtype: torch.dtype) -> bool:
    """Return whether values are cast to and from a type; FP8 means nothing without its scales."""
    return dtype.is_floating_point and dtype.itemsize > 1


def _is_nested(region: Region) -> bool:
    """Return whether each row ends before the next one begins, or so do columns."""
    dims = [(region.rows, region.row_stride), (region.cols, region.col_stride)]
    end = 0
    for size, stride in sorted((dim for dim in dims if dim[0] > 1), key=lambda dim: dim[1]):
        if stride <= end:
            return False
        end += (size - 1) * stride
    return True


def view_of(region: Region, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the [rows, cols] elements of a checked region in the parameter's own memory."""
    tensor = tensors[region.parameter]
    return tensor.as_strided(
        (region.rows, region.cols),
        (region.row_stride, region.col_stride),
        # Strides count from the start of the memory, which the parameter may share.
        tensor.storage_offset() + region.offset,
    )


def run_of(region: Region, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the elements of a checked region that lie together, in the parameter's memory."""
    tensor = tensors[region.parameter]
    start = tensor.storage_offset() + region.offset
    return tensor.as_strided((region.rows * region.cols,), (1,), start)


def is_in_place(region: Region, tensors: Mapping[str, Tensor]) -> bool:
    """Return whether what travels can arrive in the parameter itself: its order, and its type."""
    is_dense = region.cols == 1 or region.col_stride == 1
    is_row_major = region.rows == 1 or region.row_stride == region.cols
    return is_dense and is_row_major and tensors[region.parameter].dtype == dtype_of(region)


def padded(size: int) -> int:
    """Return the bytes that a piece takes in a message that it shares with others."""
    return -(-size // 16) * 16


def elements_of(regions: Sequence[Region]) -> int:
    """Return how many elements regions have together."""
    return sum(region.rows * region.cols for region in regions)
