"""Maps of servers: what the loaders of one server rank copy where, as the rank has recorded it.

A copy takes a view of a Hugging Face tensor to a view of a parameter. Views become rectangles here,
however many dimensions a loader has given them.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """One copy of a loader's. Offsets and strides are elements."""

    tensor: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    parameter: str
    to_offset: int
    to_strides: tuple[int, ...]
    to_dtype: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerMap:
    """Copies of one server rank."""

    copies: tuple[Copy, ...]

    @classmethod
    def from_json(cls, text: str) -> "ServerMap":
        """Read what ``serving_plugin`` recorded; ValueError for anything else."""
        values = json.loads(text)
        if not isinstance(values, list):
            raise ValueError("a map of a server is no list")
        return cls(copies=tuple(map(_copy, values)))

    def tensors(self) -> frozenset[str]:
        """Return the tensors of which this rank holds something."""
        return frozenset(copy.tensor for copy in self.copies)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rectangle:
    """Part of a copy: [row, row + rows) x [col, col + cols) of the tensor, and where it goes."""

    row: int
    rows: int
    col: int
    cols: int
    to_offset: int
    to_row_stride: int
    to_col_stride: int


class UnmappableError(Exception):
    """A copy that is no number of rectangles worth sending apart."""


_MOST_RECTANGLES = 4096
_Dim = tuple[int, int, int]
"""Size, stride in the tensor, stride in the parameter."""


def rectangles(copy: Copy, *, num_cols: int) -> Iterator[Rectangle]:
    """Yield the rectangles of a copy from a tensor of so many columns, by rows.

    Raises:
        UnmappableError: the loader takes the tensor apart too finely.
    """
    dims = [
        dim for dim in zip(copy.shape, copy.strides, copy.to_strides, strict=True) if dim[0] > 1
    ]
    # Widest strides first: rows before columns, whatever the order of the loader's dimensions.
    dims = _merged(sorted(dims, key=lambda dim: -dim[1]))
    dims = [part for dim in dims for part in _cut_at_rows(dim, num_cols)]
    rows = [dim for dim in dims if dim[1] >= num_cols and dim[1] % num_cols == 0]
    cols = [dim for dim in dims if dim not in rows]
    inner_rows = rows.pop() if rows and rows[-1][1] == num_cols else (1, num_cols, 0)
    inner_cols = cols.pop() if cols and cols[-1][1] == 1 else (1, 1, 0)
    count = 1
    for size, _, _ in [*rows, *cols]:
        count *= size
    if count > _MOST_RECTANGLES:
        raise UnmappableError(f"{copy.tensor}: the loader copies it in {count} parts")
    for offset, to_offset in _places([*rows, *cols], copy.offset, copy.to_offset):
        row, col = divmod(offset, num_cols)
        if col + inner_cols[0] > num_cols:
            raise UnmappableError(f"{copy.tensor}: the loader copies across the ends of rows")
        yield Rectangle(
            row=row,
            rows=inner_rows[0],
            col=col,
            cols=inner_cols[0],
            to_offset=to_offset,
            to_row_stride=inner_rows[2],
            to_col_stride=inner_cols[2],
        )


def _merged(dims: Sequence[_Dim]) -> list[_Dim]:
    """Join dimensions that are one in the tensor and in the parameter."""
    joined: list[_Dim] = []
    for dim in dims:
        size, stride, to_stride = dim
        if joined and joined[-1][1:] == (size * stride, size * to_stride):
            dim = (joined.pop()[0] * size, stride, to_stride)
        joined.append(dim)
    return joined


def _cut_at_rows(dim: _Dim, num_cols: int) -> Iterator[_Dim]:
    """Cut a dimension that runs on from row to row into rows and columns."""
    size, stride, to_stride = dim
    per_row = num_cols // stride if 0 < stride < num_cols and num_cols % stride == 0 else 0
    if per_row and size > per_row and size % per_row == 0:
        yield size // per_row, num_cols, per_row * to_stride
        yield per_row, stride, to_stride
    else:
        yield dim


def _places(dims: Sequence[_Dim], offset: int, to_offset: int) -> Iterator[tuple[int, int]]:
    if not dims:
        yield offset, to_offset
        return
    size, stride, to_stride = dims[0]
    for index in range(size):
        yield from _places(dims[1:], offset + index * stride, to_offset + index * to_stride)


def _copy(values: Any) -> Copy:
    kinds = [str, int, list, list, str, int, list, str]
    if not isinstance(values, list) or list(map(type, values)) != kinds:
        raise ValueError(f"not a copy: {values!r:.100}")
    tensor, offset, shape, strides, parameter, to_offset, to_strides, to_dtype = values
    numbers = [offset, to_offset, *shape, *strides, *to_strides]
    if any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError(f"not a copy: {values!r:.100}")
    if not len(shape) == len(strides) == len(to_strides):
        raise ValueError(f"not a copy: {values!r:.100}")
    return Copy(
        tensor=tensor,
        offset=offset,
        shape=tuple(shape),
        strides=tuple(strides),
        parameter=parameter,
        to_offset=to_offset,
        to_strides=tuple(to_strides),
        to_dtype=to_dtype,
    )
