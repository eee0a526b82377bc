"""Optimiser state of each rank, in a form that loads at any layout.

Megatron's ``fully_reshardable`` format stores, for every parameter, its float32 copy and its two
moments in the parameter's own shape. Upstream gathers all of it on every data-parallel rank before
it is written. Here every rank describes what it holds already: a range of the flat parameter, as
boxes of its shape. What lies on disk is read by upstream's loading code.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.dist_checkpointing.utils import extract_sharded_tensors_and_factories
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import ChainedOptimizer
from torch import Tensor

SHARDING_TYPE = "fully_reshardable"
Box = tuple[tuple[int, ...], tuple[int, ...]]


def sharded_optimizer_state(
    optimizer: ChainedOptimizer, model_state: Mapping[str, Any]
) -> dict[int, list[ShardedTensor]]:
    """Return the tensors to be written by this rank; nothing is copied or communicated.

    Args:
        model_state: sharded state of every model chunk, whose data are the parameters.
    """
    tensors, _ = extract_sharded_tensors_and_factories(dict(model_state))
    described = {id(tensor.data): tensor for tensor in nested_values(tensors)}
    return {
        index: [
            shard
            for param, held in _held_ranges(part)
            for shard in _shards(described[id(param)], part, param, held)
        ]
        for index, part in enumerate(optimizer.chained_optimizers)
    }


def optimizer_facts(optimizer: ChainedOptimizer) -> dict[str, Any]:
    """Return what is of no parameter: the steps taken, and the loss scale's state in fp16.

    Everything else in Megatron's parameter groups is configuration, or set by the schedule.
    """
    states = [part.state_dict() for part in optimizer.chained_optimizers]
    groups = [group for state in states for group in state["optimizer"]["param_groups"]]
    scalers = [state["grad_scaler"] for state in states if "grad_scaler" in state]
    return {
        "step": max((group["step"] for group in groups if "step" in group), default=None),
        "grad_scaler": scalers[0] if scalers else None,
    }


def loadable_optimizer_state(
    optimizer: ChainedOptimizer, tensors: dict[Any, Any], facts: Mapping[str, Any]
) -> dict[Any, Any]:
    """Return what the optimiser loads: this layout's groups with a checkpoint's tensors and facts.

    Upstream takes the groups from the checkpoint, and then a mixture of experts loads only where
    experts are spread over ranks as they were: they are an optimiser of their own with ep > 1.
    """
    parts = optimizer.chained_optimizers
    for part, state in zip(
        parts,
        [tensors] if len(parts) == 1 else [tensors[i] for i in range(len(parts))],
        strict=True,
    ):
        state |= part.state_dict() | {"param_state_sharding_type": SHARDING_TYPE}
        for group in state["optimizer"]["param_groups"]:
            if facts["step"] is not None:
                group["step"] = facts["step"]
        if facts["grad_scaler"] is not None:
            state["grad_scaler"] = facts["grad_scaler"]
    return tensors


def boxes(shape: tuple[int, ...], start: int, stop: int) -> Iterator[Box]:
    """Yield (offset, size) of the boxes that hold elements [start, stop) of a row-major array.

    They come in the order of their elements; there are at most 2 * dimensions - 1.

    Example:
        >>> list(boxes((3, 4), 2, 9))
        [((0, 2), (1, 2)), ((1, 0), (1, 4)), ((2, 0), (1, 1))]
    """
    if start >= stop:
        return
    if not shape:
        yield (), ()
        return
    inner = math.prod(shape[1:])
    row, column = divmod(start, inner)
    if column:
        yield from _within(row, shape, column, min(inner, stop - row * inner))
        row += 1
    whole = stop // inner - row
    if whole > 0:
        yield (row, *(0 for _ in shape[1:])), (whole, *shape[1:])
        row += whole
    if row * inner < stop:
        yield from _within(row, shape, 0, stop - row * inner)


def _within(row: int, shape: tuple[int, ...], start: int, stop: int) -> Iterator[Box]:
    for offset, size in boxes(shape[1:], start, stop):
        yield (row, *offset), (1, *size)


def _held_ranges(optimizer: DistributedOptimizer) -> Iterator[tuple[Tensor, Any]]:
    """Yield each parameter this rank updates a part of, with the range of its elements."""
    for buckets_by_dtype in optimizer.gbuf_ranges:
        for buckets in buckets_by_dtype.values():
            for bucket in buckets:
                for param, ranges in bucket["param_map"].items():
                    yield param, ranges["param"]


def _shards(
    model: ShardedTensor | ShardedTensorFactory,
    optimizer: DistributedOptimizer,
    param: Tensor,
    held: Any,
) -> Iterator[ShardedTensor]:
    states = optimizer._get_main_param_and_optimizer_states(param)
    # A tensor that Megatron stores in parts (gate and up projection) has its elements in theirs.
    parts = [model] if isinstance(model, ShardedTensor) else list(nested_values(model.build()))
    for part in parts:
        assert part.data.is_contiguous(), f"{part.key}: parts of a parameter are runs of elements"
        begin = part.data.storage_offset() - param.storage_offset()
        start, stop = max(held.start, begin), min(held.end, begin + part.data.numel())
        position = start - held.start
        for offset, size in boxes(tuple(part.data.shape), start - begin, stop - begin):
            count = math.prod(size)
            for name in ("param", "exp_avg", "exp_avg_sq"):
                # Adam makes its moments at the first step that is not skipped.
                flat = states[name] if name in states else torch.zeros_like(states["param"])
                data = flat.detach().view(-1)[position : position + count].view(size)
                yield _box_of(part, f"optimizer.state.{name}.{part.key}", data, offset)
            position += count


def _box_of(part: ShardedTensor, key: str, data: Tensor, offset: tuple[int, ...]) -> ShardedTensor:
    """Describe ``data``, which lies at ``offset`` of the local tensor ``part``."""
    axes = part.prepend_axis_num
    local = part.global_offset[axes:]
    data = data.view((1,) * axes + tuple(data.shape))
    return ShardedTensor(
        key=key,
        data=data,
        dtype=data.dtype,
        local_shape=tuple(data.shape),
        global_shape=part.global_shape,
        global_offset=(
            *part.global_offset[:axes],
            *(a + b for a, b in zip(local, offset, strict=True)),
        ),
        axis_fragmentations=None,  # boxes make no regular grid
        # No other data-parallel rank holds these elements, but replicas of the model do.
        replica_id=(*part.replica_id[:2], 0),
        allow_shape_mismatch=part.allow_shape_mismatch,
    )
