"""Parts of a quantised tensor: boxes of whole blocks, each of which one learner rank can quantise.

A part of a parameter may hold its share of a Hugging Face tensor in any order. Where that share is
a box of the tensor and every cut lies between blocks, the rank that holds it quantises it alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from megatron_rl.conversion.block_fp8.tensors import BLOCK, num_blocks
from megatron_rl.conversion.families import WeightRule, weight_rules
from megatron_rl.conversion.families.shapes import tensor_shapes
from megatron_rl.conversion.resharding.held import Held, held_of_rule
from megatron_rl.conversion.resharding.sources import LearnerMap
from megatron_rl.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """[row, row + rows) x [col, col + cols) of a tensor, all of which one part holds."""

    part: int
    row: int
    rows: int
    col: int
    cols: int
    rectangles: Sequence[Held]
    """Where the part has them."""

    def values(self) -> Held:
        """Return where the values of the box are, quantised: by themselves, row by row."""
        return _alone(self.part, self.row, self.rows, self.col, self.cols)

    def scales(self) -> Held:
        """Return the same of the scales."""
        return _alone(
            self.part,
            self.row // BLOCK,
            num_blocks(self.rows),
            self.col // BLOCK,
            num_blocks(self.cols),
        )


def _alone(part: int, row: int, rows: int, col: int, cols: int) -> Held:
    return Held(part=part, row=row, rows=rows, col=col, cols=cols, offset=0, row_stride=cols)


def quantised_boxes(
    spec: ModelSpec, learner: LearnerMap, quantised: frozenset[str]
) -> Iterator[tuple[WeightRule, str, list[Box] | None]]:
    """Yield rule, name and boxes by part of every quantised tensor; None where blocks are cut."""
    shapes = dict(tensor_shapes(spec))
    for rule in weight_rules(spec):
        names = quantised.intersection(rule.huggingface)
        if not names:
            continue
        held = held_of_rule(rule, shapes, spec, num_parts=learner.num_parts(rule))
        for name in rule.huggingface:
            if name in names:
                yield rule, name, None if held is None else boxes_of(held[name])


def boxes_of(held: Sequence[Held]) -> list[Box] | None:
    """Return the box of each part; None unless all are boxes that are cut between blocks.

    Args:
        held: rectangles of all parts, which together are the tensor and do not overlap.
    """
    by_part: dict[int, list[Held]] = {}
    for rectangle in held:
        by_part.setdefault(rectangle.part, []).append(rectangle)
    boxes = [_box(part, rectangles) for part, rectangles in by_part.items()]
    # Each cut is where some box begins.
    found = [b for b in boxes if b is not None and b.row % BLOCK == 0 and b.col % BLOCK == 0]
    return found if len(found) == len(boxes) else None


def _box(part: int, held: Sequence[Held]) -> Box | None:
    row, col = min(h.row for h in held), min(h.col for h in held)
    rows = max(h.row + (h.rows - 1) * h.row_step + 1 for h in held) - row
    cols = max(h.col + h.cols for h in held) - col
    if sum(h.rows * h.cols for h in held) != rows * cols:
        return None
    return Box(part=part, row=row, rows=rows, col=col, cols=cols, rectangles=tuple(held))
