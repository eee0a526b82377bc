"""Server maps by arithmetic: what SGLang's loaders copy on one rank, without a server.

A server records its own map. Where there is none to ask, this says the same of the layouts that the
families have: fused projections, experts cut over ranks, heads that several ranks share, padded
vocabularies. Padding of heads and experts, which SGLang's CPU build does, is left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

from megatron_rl.conversion.families import WeightRule
from megatron_rl.conversion.families.shapes import Shape
from megatron_rl.conversion.resharding import Copy, ServerMap

from .tensors import Tensors

_VOCABULARY_MULTIPLE = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerCut:
    """How the ranks of a server share the model."""

    tp: int
    ep: int
    """Ranks that share the experts of a layer; each expert is cut over ``tp / ep``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """Rows and columns of a tensor that one rank copies, and where to."""

    tensor: str
    whole: Shape
    parameter: str
    row: int
    rows: int
    to_row: int = 0
    col: int = 0
    cols: int | None = None
    """None for all."""


def server_maps(tensors: Tensors, cut: ServerCut) -> Iterator[ServerMap]:
    """Yield what each rank of a server copies, rank by rank."""
    for rank in range(cut.tp):
        parts = [part for rule in tensors.rules for part in _parts(rule, tensors, cut, rank)]
        yield ServerMap(
            copies=tuple(
                _copy(part, tensors.dtypes[part.tensor].name) for part in parts if part.rows
            )
        )


def _parts(rule: WeightRule, tensors: Tensors, cut: ServerCut, rank: int) -> Iterator[_Part]:
    if rule.expert is not None:
        yield from _expert(rule, tensors, cut, rank)
    elif rule.layout == "qkv":
        yield from _qkv(rule, tensors, cut.tp, rank)
    elif rule.layout == "fused_gate_up":
        yield from _halves(rule, tensors, cut.tp, rank)
    else:
        for index, name in enumerate(rule.huggingface):
            yield _cut(rule, name, index, tensors.shapes[name], rule.megatron, cut.tp, rank)


def _cut(
    rule: WeightRule, name: str, index: int, whole: Shape, parameter: str, tp: int, rank: int
) -> _Part:
    """Return the part of a tensor whose ranks hold equal rows, or equal columns."""
    rows = whole[0]
    first, height, to_row, col, cols = 0, rows, 0, 0, None
    if rule.layout == "vocab":
        padded = -(-rows // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE
        while padded % tp:
            padded += _VOCABULARY_MULTIPLE
        first = min(rank * padded // tp, rows)
        height = min(padded // tp, rows - first)
    elif rule.layout in ("column", "gate_up"):
        height = rows // tp
        first, to_row = rank * height, index * height
    elif rule.layout == "row":
        if len(whole) == 2:
            cols = whole[1] // tp
            col = rank * cols
    else:
        assert rule.layout == "replicated", rule.layout
    return _Part(
        tensor=name,
        whole=whole,
        parameter=parameter,
        row=first,
        rows=height,
        to_row=to_row,
        col=col,
        cols=cols,
    )


def _qkv(rule: WeightRule, tensors: Tensors, tp: int, rank: int) -> Iterator[_Part]:
    to_row = 0
    for index, name in enumerate(rule.huggingface):
        whole = tensors.shapes[name]
        rows = whole[0]
        height = max(rows // tp, tensors.spec.head_dim) if index else rows // tp
        # Where there are more ranks than heads, several hold the same one.
        num_sharing = tp // (rows // height)
        yield _Part(
            tensor=name,
            whole=whole,
            parameter=rule.megatron,
            row=rank // num_sharing * height,
            rows=height,
            to_row=to_row,
        )
        to_row += height


def _halves(rule: WeightRule, tensors: Tensors, tp: int, rank: int) -> Iterator[_Part]:
    """Yield the rank's rows of the gate, then those of up, which one tensor holds both."""
    (name,) = rule.huggingface
    whole = tensors.shapes[name]
    height = whole[0] // 2 // tp
    for half in range(2):
        yield _Part(
            tensor=name,
            whole=whole,
            parameter=rule.megatron,
            row=half * (whole[0] // 2) + rank * height,
            rows=height,
            to_row=half * height,
        )


def _expert(rule: WeightRule, tensors: Tensors, cut: ServerCut, rank: int) -> Iterator[_Part]:
    assert rule.expert is not None
    per_rank = tensors.spec.num_experts // cut.ep
    num_parts = cut.tp // cut.ep
    if rule.expert // per_rank != rank // num_parts:
        return
    # All experts of a rank are one parameter, stacked by rows.
    local = rule.expert % per_rank
    parameter = rule.megatron.replace(f"local_experts.{rule.expert}.", "")
    for index, name in enumerate(rule.huggingface):
        whole = tensors.shapes[name]
        part = _cut(rule, name, index, whole, parameter, num_parts, rank % num_parts)
        height = part.rows * len(rule.huggingface)
        yield replace(part, to_row=part.to_row + local * height)


def _copy(part: _Part, dtype: str) -> Copy:
    rest = part.whole[1:]
    cols = rest if part.cols is None else (part.cols,)
    row_size, to_row_size = prod(rest), prod(cols)
    ends = (1,) * len(rest)
    return Copy(
        tensor=part.tensor,
        offset=part.row * row_size + part.col,
        shape=(part.rows, *cols),
        strides=(row_size, *ends),
        parameter=part.parameter,
        to_offset=part.to_row * to_row_size,
        to_strides=(to_row_size, *ends),
        to_dtype=dtype,
    )
