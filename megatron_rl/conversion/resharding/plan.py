"""Plan of one server rank: the pieces that learner ranks hold of what its loaders copy."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from megatron_rl.conversion.block_fp8.tensors import num_blocks, scale_name
from megatron_rl.conversion.families import weight_rules
from megatron_rl.conversion.families.shapes import tensor_shapes
from megatron_rl.conversion.resharding.blocks import quantised_boxes
from megatron_rl.conversion.resharding.held import Held, Shape, as_matrix, held_of_rule
from megatron_rl.conversion.resharding.server_map import (
    Copy,
    Rectangle,
    ServerMap,
    UnmappableError,
    rectangles,
)
from megatron_rl.conversion.resharding.sources import LearnerMap
from megatron_rl.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A rectangle that one learner rank sends. Offsets and strides are elements."""

    source: int
    """Learner rank."""
    tensor: str
    """Hugging Face tensor, whose type it travels in."""
    from_parameter: str
    """Megatron's name in the whole model; of what is quantised, that of the tensor."""
    offset: int
    row_stride: int
    rows: int
    cols: int
    to_parameter: str
    to_offset: int
    to_row_stride: int
    to_col_stride: int
    to_dtype: str

    @property
    def num_elements(self) -> int:
        """Elements of the rectangle."""
        return self.rows * self.cols


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """What a parameter of the learner's holds of a tensor."""

    parameter: str
    held: Sequence[Held]
    holders: Sequence[Sequence[int]]
    """Ranks of each part."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tensor:
    """A tensor as the learner holds it."""

    num_rows: int
    num_cols: int
    sources: list[_Source]
    """One, or of a tensor that stacks all experts those of each: so many rows from the last."""

    def sources_of(self, wanted: Rectangle) -> Sequence[_Source]:
        """Return the sources that may hold some of a rectangle."""
        height = self.num_rows // len(self.sources)
        return self.sources[wanted.row // height : -(-(wanted.row + wanted.rows) // height)]


_NO_RECTANGLES = "the learner's layout of it is not cut into rectangles"
_CUT_BLOCKS = "the learner's layout cuts its blocks of 128 x 128, which have one scale each"


class Planner:
    """Plans for one learner and model, any number of server ranks."""

    def __init__(
        self, spec: ModelSpec, learner: LearnerMap, quantised: frozenset[str] = frozenset()
    ) -> None:
        """Find where everything is.

        Args:
            spec: of the model.
            learner: which ranks hold what.
            quantised: tensors that travel in block FP8, as values and scales.
        """
        self._cut: dict[str, str] = {}
        self._tensors = {
            name: tensor
            for name, tensor in _tensors(spec, learner).items()
            if name not in quantised
        } | self._quantised(spec, learner, quantised)

    def mapped(self) -> frozenset[str]:
        """Return the tensors of which the learner's half is known."""
        return frozenset(self._tensors)

    def unmappable(self, server_rank: ServerMap) -> dict[str, str]:
        """Return why, by name of each tensor that this rank must be sent whole."""
        reasons = {}
        for copy in server_rank.copies:
            if copy.tensor not in self._tensors:
                reasons[copy.tensor] = self._cut.get(copy.tensor, _NO_RECTANGLES)
                continue
            tensor = self._tensors[copy.tensor]
            try:
                for wanted in rectangles(copy, num_cols=tensor.num_cols):
                    if wanted.row + wanted.rows > tensor.num_rows:
                        raise UnmappableError(f"{copy.tensor}: the loader copies more than it has")
            except UnmappableError as error:
                reasons[copy.tensor] = str(error)
        return reasons

    def pieces(
        self, server_rank: ServerMap, *, replica: int, without: frozenset[str] = frozenset()
    ) -> list[Piece]:
        """Return what a server rank is sent, in the order of its copies.

        Args:
            server_rank: what its loaders copy.
            replica: a number that spreads server ranks over learner ranks which hold the same.
            without: tensors that are sent whole instead.
        """
        found: list[Piece] = []
        for copy in server_rank.copies:
            if copy.tensor not in without:
                _extend_merged(found, self._pieces_of(copy, replica))
        return found

    def _quantised(
        self, spec: ModelSpec, learner: LearnerMap, quantised: frozenset[str]
    ) -> dict[str, _Tensor]:
        """Return values and scales by name; note those whose blocks the layout cuts."""
        found: dict[str, _Tensor] = {}
        shapes = dict(tensor_shapes(spec))
        for rule, name, boxes in quantised_boxes(spec, learner, quantised):
            if boxes is None:
                self._cut |= dict.fromkeys((name, scale_name(name)), _CUT_BLOCKS)
                continue
            rows, cols = as_matrix(shapes[name])
            sizes = {
                name: (rows, cols, [box.values() for box in boxes]),
                scale_name(name): (
                    num_blocks(rows),
                    num_blocks(cols),
                    [box.scales() for box in boxes],
                ),
            }
            for own, (num_rows, num_cols, held) in sizes.items():
                source = _Source(parameter=own, held=held, holders=learner.holders(rule))
                found[own] = _Tensor(num_rows=num_rows, num_cols=num_cols, sources=[source])
        return found

    def _pieces_of(self, copy: Copy, replica: int) -> Iterator[Piece]:
        tensor = self._tensors[copy.tensor]
        for wanted in rectangles(copy, num_cols=tensor.num_cols):
            num_found = 0
            for source in tensor.sources_of(wanted):
                for held in _one_copy(source.held, replica):
                    piece = _intersection(copy, source, wanted, held, replica)
                    if piece is not None:
                        num_found += piece.num_elements
                        yield piece
            assert num_found == wanted.rows * wanted.cols, (copy, wanted, num_found)


def _tensors(spec: ModelSpec, learner: LearnerMap) -> dict[str, _Tensor]:
    shapes: Mapping[str, Shape] = dict(tensor_shapes(spec))
    tensors: dict[str, _Tensor] = {}
    for rule in weight_rules(spec):
        parts = held_of_rule(rule, shapes, spec, num_parts=learner.num_parts(rule))
        if parts is None:
            continue
        holders = learner.holders(rule)
        for name, held in parts.items():
            if name not in tensors:
                num_rows, num_cols = as_matrix(shapes[name])
                tensors[name] = _Tensor(num_rows=num_rows, num_cols=num_cols, sources=[])
            source = _Source(parameter=rule.megatron, held=held, holders=holders)
            tensors[name].sources.append(source)
    return tensors


def _one_copy(held: Sequence[Held], replica: int) -> Sequence[Held]:
    """Return rectangles that do not overlap: of parts that hold the same, one."""
    is_replicated = len(held) > 1 and held[0].row == held[1].row and held[0].col == held[1].col
    return [held[replica % len(held)]] if is_replicated else held


def _intersection(
    copy: Copy, source: _Source, wanted: Rectangle, held: Held, replica: int
) -> Piece | None:
    row, num_rows = _common(wanted.row, wanted.rows, held.row, held.rows, held.row_step)
    col, num_cols = _common(wanted.col, wanted.cols, held.col, held.cols, held.col_step)
    if num_rows <= 0 or num_cols <= 0:
        return None
    ranks = source.holders[held.part]
    piece = Piece(
        source=ranks[replica % len(ranks)],
        tensor=copy.tensor,
        from_parameter=source.parameter,
        offset=held.offset
        + (row - held.row) // held.row_step * held.row_stride
        + (col - held.col) // held.col_step * held.col_stride,
        row_stride=held.row_stride,
        rows=num_rows,
        cols=num_cols,
        to_parameter=copy.parameter,
        to_offset=wanted.to_offset
        + (row - wanted.row) * wanted.to_row_stride
        + (col - wanted.col) * wanted.to_col_stride,
        to_row_stride=held.row_step * wanted.to_row_stride,
        to_col_stride=held.col_step * wanted.to_col_stride,
        to_dtype=copy.to_dtype,
    )
    return piece if held.col_stride == 1 else _transposed(piece, held.col_stride)


def _common(wanted: int, num_wanted: int, held: int, num_held: int, step: int) -> tuple[int, int]:
    """Return the first row, or column, of those held that is wanted, and how many are."""
    skipped = max(0, -(-(wanted - held) // step))
    first = held + skipped * step
    return first, min(num_held - skipped, -(-(wanted + num_wanted - first) // step))


def _transposed(piece: Piece, col_stride: int) -> Piece:
    """Return a piece by rows of the parameter, whose memory has the columns of the tensor apart."""
    assert piece.row_stride == 1, piece
    return dataclasses.replace(
        piece,
        row_stride=col_stride,
        rows=piece.cols,
        cols=piece.rows,
        to_row_stride=piece.to_col_stride,
        to_col_stride=piece.to_row_stride,
    )


_SAME = (
    *("source", "tensor", "from_parameter", "to_parameter"),
    *("cols", "row_stride", "to_row_stride", "to_col_stride"),
)


def _extend_merged(pieces: list[Piece], more: Iterable[Piece]) -> None:
    """Append pieces; one that goes on where the last ends, on both sides, makes it longer."""
    for piece in more:
        if pieces and _goes_on(pieces[-1], piece):
            last = pieces.pop()
            piece = dataclasses.replace(last, rows=last.rows + piece.rows)
        pieces.append(piece)


def _goes_on(last: Piece, piece: Piece) -> bool:
    return (
        all(getattr(last, name) == getattr(piece, name) for name in _SAME)
        and piece.offset == last.offset + last.rows * last.row_stride
        and piece.to_offset == last.to_offset + last.rows * last.to_row_stride
    )
