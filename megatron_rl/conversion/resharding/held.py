"""Rectangles of Hugging Face tensors that the tensor-parallel parts of a parameter hold.

The same layouts as ``conversion.layouts``, as places instead of tensors. A tensor of one dimension
is a column; one that stacks all experts is their matrices, one below the other, and their biases
are its rows.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from megatron_rl.conversion.families import WeightRule
from megatron_rl.model_spec import ModelSpec

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A rectangle of a Hugging Face tensor in the memory of one part of a parameter."""

    part: int
    """Which tensor-parallel part; of an expert, which expert-tensor-parallel one."""
    row: int
    rows: int
    col: int
    cols: int
    offset: int
    """Elements from the part's first."""
    row_stride: int
    col_stride: int = 1
    row_step: int = 1
    """Rows of the tensor from one row of the rectangle to the next."""
    col_step: int = 1


def as_matrix(shape: Shape) -> tuple[int, int]:
    """Return rows and columns of a tensor."""
    return (shape[0], 1) if len(shape) == 1 else (math.prod(shape[:-1]), shape[-1])


def held_of_rule(
    rule: WeightRule, shapes: Mapping[str, Shape], spec: ModelSpec, *, num_parts: int
) -> dict[str, list[Held]] | None:
    """Return what :func:`held_by_parts` does, for a model."""
    return held_by_parts(
        rule,
        shapes,
        num_groups=spec.num_groups,
        head_dim=spec.head_dim,
        interleaved_dim=spec.interleaved_dim,
        num_parts=num_parts,
    )


def held_by_parts(
    rule: WeightRule,
    shapes: Mapping[str, Shape],
    *,
    num_groups: int,
    head_dim: int,
    interleaved_dim: int,
    num_parts: int,
) -> dict[str, list[Held]] | None:
    """Return the rectangles of every tensor of a rule; None for a layout without any.

    What several parts hold alike, such as a norm, is said of each of them.

    Args:
        rule: of the parameter.
        shapes: shape of each tensor of the rule, whole.
        num_groups: key/value heads of the model.
        head_dim: rows of one head.
        interleaved_dim: first rows of each head of queries and keys that are reordered
            (``layouts.to_halves``): even ones, then odd ones.
        num_parts: ranks that the parameter is cut over.
    """
    if rule.is_stacked:
        (name,) = rule.huggingface
        return {name: list(_of_expert(rule, shapes[name], num_parts))}
    sizes = {name: as_matrix(shapes[name]) for name in rule.huggingface}
    if rule.layout == "qkv":
        held = _qkv(rule, sizes, num_groups=num_groups, num_parts=num_parts)
        if interleaved_dim:
            for name in rule.huggingface[:2]:
                held[name] = list(_turned(held[name], head_dim, interleaved_dim))
        return held
    if rule.layout == "gate_up":
        return {
            name: list(_row_parts(rows, cols, num_parts, before=half * (rows // num_parts)))
            for half, (name, (rows, cols)) in enumerate(sizes.items())
        }
    if rule.layout == "fused_gate_up":
        return {name: list(_halves(*size, num_parts)) for name, size in sizes.items()}
    cuts = {"replicated": _copies, "column": _row_parts, "vocab": _vocab_parts, "row": _col_parts}
    if rule.layout not in cuts or any(len(shapes[name]) > 2 for name in sizes):
        return None
    return {
        name: list(
            # A bias of a layer that is cut along its inputs is whole on each rank.
            _copies(rows, cols, num_parts)
            if rule.layout == "row" and len(shapes[name]) == 1
            else cuts[rule.layout](rows, cols, num_parts)
        )
        for name, (rows, cols) in sizes.items()
    }


def _of_expert(rule: WeightRule, shape: Shape, num_parts: int) -> Iterator[Held]:
    """Yield what the parts of one expert hold of the tensor of all.

    A bias of an expert is one row. Of a matrix, an expert has as many rows as inputs, and its
    parameter is transposed: columns lie apart, and rows beside each other.
    """
    assert rule.expert is not None
    num_rows, num_cols = (1, shape[1]) if len(shape) == 2 else shape[1:]
    first = rule.expert * num_rows
    for part in range(num_parts):
        if rule.layout == "row":
            yield _rows(part, first, 1, num_cols, 0)
        elif rule.layout == "row_of_inputs":
            height = num_rows // num_parts
            yield Held(
                part=part,
                row=first + part * height,
                rows=height,
                col=0,
                cols=num_cols,
                offset=0,
                row_stride=1,
                col_stride=height,
            )
        else:
            assert rule.layout == "gate_up_in_turns", rule
            width = num_cols // 2 // num_parts
            for half in range(2):
                yield Held(
                    part=part,
                    row=first,
                    rows=num_rows,
                    col=2 * part * width + half,
                    cols=width,
                    col_step=2,
                    offset=half * width * num_rows,
                    row_stride=1,
                    col_stride=num_rows,
                )


def _rows(part: int, row: int, rows: int, cols: int, offset: int) -> Held:
    return Held(part=part, row=row, rows=rows, col=0, cols=cols, offset=offset, row_stride=cols)


def _copies(rows: int, cols: int, num_parts: int) -> Iterator[Held]:
    for part in range(num_parts):
        yield _rows(part, 0, rows, cols, 0)


def _row_parts(rows: int, cols: int, num_parts: int, *, before: int = 0) -> Iterator[Held]:
    height = rows // num_parts
    for part in range(num_parts):
        yield _rows(part, part * height, height, cols, before * cols)


def _halves(rows: int, cols: int, num_parts: int) -> Iterator[Held]:
    """Each part stores its rows of the gate, then those of up."""
    height = rows // 2 // num_parts
    for part in range(num_parts):
        yield _rows(part, part * height, height, cols, 0)
        yield _rows(part, rows // 2 + part * height, height, cols, height * cols)


def _vocab_parts(rows: int, cols: int, num_parts: int) -> Iterator[Held]:
    """Without the padding that makes the parts equal, which nobody needs."""
    height = -(-rows // num_parts)
    for part in range(num_parts):
        if part * height < rows:
            yield _rows(part, part * height, min(height, rows - part * height), cols, 0)


def _col_parts(rows: int, cols: int, num_parts: int) -> Iterator[Held]:
    width = cols // num_parts
    for part in range(num_parts):
        yield Held(
            part=part,
            row=0,
            rows=rows,
            col=part * width,
            cols=width,
            offset=0,
            row_stride=width,
        )


def _qkv(
    rule: WeightRule,
    sizes: Mapping[str, tuple[int, int]],
    *,
    num_groups: int,
    num_parts: int,
) -> dict[str, list[Held]]:
    """Each group of heads stores its queries, then its key, then its value."""
    heights = [rows // num_groups for rows, _ in sizes.values()]
    held: dict[str, list[Held]] = {}
    for index, (name, (_, cols)) in enumerate(sizes.items()):
        held[name] = []
        for group in range(num_groups):
            part, local = divmod(group, num_groups // num_parts)
            first_row = local * sum(heights) + sum(heights[:index])
            height = heights[index]
            held[name].append(_rows(part, group * height, height, cols, first_row * cols))
    return held


def _turned(held: Iterable[Held], head_dim: int, turned: int) -> Iterator[Held]:
    """Take heads apart into even rows, odd rows, and those that are not rotated."""
    for block in held:
        for head in range(0, block.rows, head_dim):
            first, offset = block.row + head, block.offset + head * block.row_stride
            half = turned // 2
            for parity in range(2):
                yield replace(
                    block,
                    row=first + parity,
                    rows=half,
                    offset=offset + parity * half * block.row_stride,
                    row_step=2,
                )
            if turned < head_dim:
                yield replace(
                    block,
                    row=first + turned,
                    rows=head_dim - turned,
                    offset=offset + turned * block.row_stride,
                )
