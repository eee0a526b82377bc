"""Shards of the policy in block FP8: what this rank holds, quantised when it is asked for."""

import collections
import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from megatron_rl.conversion.block_fp8.blocks import quantise_blocks
from megatron_rl.conversion.block_fp8.tensors import owner_of_scales
from megatron_rl.conversion.families import WeightRule
from megatron_rl.conversion.resharding import Box, LearnerMap
from megatron_rl.conversion.resharding.blocks import quantised_boxes
from megatron_rl.model_spec import ModelSpec

# Servers are sent to at once, each from its own thread, and ask for the same tensors at about the
# same time. What is forgotten in between is quantised again, to the same bits.
_KEPT_BYTES = 256 * 2**20


class QuantisedShards:
    """This rank's boxes of quantised tensors, the last ones kept until weights change."""

    def __init__(
        self,
        spec: ModelSpec,
        places: LearnerMap,
        quantised: frozenset[str],
        parameter: Callable[[str], Tensor],
        *,
        rank: int,
        dtype: torch.dtype,
    ) -> None:
        """Find this rank's boxes.

        Args:
            spec: of the whole model.
            places: where every parameter of the model is.
            quantised: Hugging Face tensors that travel in block FP8.
            parameter: returns this rank's part of a parameter, as it is now.
            rank: of the learner.
            dtype: in which weights are when they are quantised, as whole tensors are.
        """
        self._boxes = dict(_boxes_of_rank(spec, places, quantised, rank))
        self._parameter = parameter
        self._dtype = dtype
        self._kept: collections.OrderedDict[str, tuple[Tensor, Tensor]] = collections.OrderedDict()
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Drop what is kept: the weights have changed."""
        with self._lock:
            self._kept.clear()

    def __contains__(self, name: str) -> bool:
        """Return whether a name is that of values or of scales of this rank."""
        return owner_of_scales(name) in self._boxes

    def part(self, name: str) -> Tensor:
        """Return this rank's part of values or scales, by name: its box, row by row."""
        owner = owner_of_scales(name)
        with self._lock:
            found = self._kept.pop(owner, None)
            if found is None:
                found = quantise_blocks(self._box(owner))
            self._kept[owner] = found
            # The one that was asked for last stays, however large it is.
            while len(self._kept) > 1 and self._num_bytes() > _KEPT_BYTES:
                self._kept.popitem(last=False)
        return found[0] if name == owner else found[1]

    def _num_bytes(self) -> int:
        return sum(tensor.nbytes for pair in self._kept.values() for tensor in pair)

    def _box(self, name: str) -> Tensor:
        """Return this rank's part of a tensor as the tensor has it, not yet quantised."""
        rule, box = self._boxes[name]
        parameter = self._parameter(rule.megatron)
        whole = torch.empty(box.rows, box.cols, dtype=self._dtype, device=parameter.device)
        for held in box.rectangles:
            start = parameter.storage_offset() + held.offset
            source = parameter.as_strided((held.rows, held.cols), (held.row_stride, 1), start)
            first, col = held.row - box.row, held.col - box.col
            rows = slice(first, first + (held.rows - 1) * held.row_step + 1, held.row_step)
            whole[rows, col : col + held.cols] = source
        return whole


def _boxes_of_rank(
    spec: ModelSpec, places: LearnerMap, quantised: frozenset[str], rank: int
) -> Iterator[tuple[str, tuple[WeightRule, Box]]]:
    for rule, name, boxes in quantised_boxes(spec, places, quantised):
        if boxes is None:
            continue
        holders = places.holders(rule)
        for box in boxes:
            if rank in holders[box.part]:
                yield name, (rule, box)
