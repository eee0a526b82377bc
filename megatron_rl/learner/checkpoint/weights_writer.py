"""Write model weights as a Megatron checkpoint, one file a layer.

Megatron's own interface takes a whole model; torch's distributed checkpoint, whose files Megatron
reads, does not. The layers are to it what ranks are in training: each writes a file of its own, one
after the other. Megatron cuts a checkpoint anew whenever it loads it, so this fits every layout.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor
from megatron.core.dist_checkpointing.strategies.base import SaveShardedStrategy
from torch import Tensor
from torch.distributed.checkpoint import DefaultSavePlanner, FileSystemWriter
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import (
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import WriteResult

from megatron_rl.conversion.families import weight_rules
from megatron_rl.conversion.layouts import to_megatron
from megatron_rl.conversion.stacked import PartReader
from megatron_rl.learner.checkpoint.abstract_model import AbstractModel, chunk_of, pieces
from megatron_rl.learner.checkpoint.megatron_format import checkpoint_errors, content_metadata

_LAYER = re.compile(r"decoder\.layers\.\d+\.")

Placement = list[tuple[str, list[int] | None, int, int]]
"""Of each entry of a file: Megatron's key, offset in the tensor (None: no tensor), and first byte
and number of bytes in the file. It is kept as JSON between two attempts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WritePlan:
    """A checkpoint that is to be written: a file for each layer, and for what is in none."""

    model: AbstractModel
    files: Mapping[str, SavePlan]
    metadata: Metadata


def plan_files(model: AbstractModel) -> WritePlan:
    """Say which file of a checkpoint will hold what; the same model gives the same plan."""
    groups: dict[str, list[WriteItem]] = {}
    # In the order of the rules: a tensor of all experts is then read once for all of them.
    for rule in weight_rules(model.spec):
        items = [_tensor_item(piece) for piece in pieces(model.params[rule.megatron], None)]
        groups.setdefault(_group_of(rule.megatron), []).extend(items)
    for name, stored in model.objects.items():
        item = WriteItem(index=MetadataIndex(stored.unique_key), type=WriteItemType.BYTE_IO)
        groups.setdefault(_group_of(name), []).append(item)
    plans, metadata = create_default_global_save_plan([SavePlan(i) for i in groups.values()])
    # No folder is touched yet: the writer only names files here.
    plans = FileSystemWriter("").prepare_global_plan(plans)
    files = {f"{plan.storage_data.prefix}0.distcp": plan for plan in plans}
    return WritePlan(model=model, files=files, metadata=metadata)


def write_file(
    plan: WritePlan, name: str, read: Callable[[str], Tensor], folder: Path
) -> Placement:
    """Write one file of a checkpoint.

    Args:
        read: returns the whole Hugging Face tensor of a name, in the type to be stored.

    Raises:
        CheckpointError: it cannot be written.
    """
    with checkpoint_errors(f"{folder / name}: cannot be written"):
        folder.mkdir(parents=True, exist_ok=True)
        resolving = _OneAtATime(plan.model, read)
        results = FileSystemWriter(folder).write_data(plan.files[name], resolving).wait()
    return [_placed(result) for result in results]


def finish_checkpoint(plan: WritePlan, placements: Mapping[str, Placement], folder: Path) -> None:
    """Write what makes files of tensors a checkpoint: ``.metadata``, and what Megatron adds.

    Raises:
        CheckpointError: it cannot be written.
    """
    results = [
        [_result(name, *entry) for entry in placement] for name, placement in placements.items()
    ]
    with checkpoint_errors(f"{folder}: cannot be written"):
        dist_checkpointing.save(
            {},
            str(folder),
            _OnlyMetadata(plan.metadata, results),
            content_metadata=content_metadata(),
        )


class _OnlyMetadata(SaveShardedStrategy):
    """Makes ``.metadata`` where Megatron would write tensors."""

    def __init__(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        super().__init__("torch_dist", 1)
        self._metadata = metadata
        self._results = results

    @property
    def can_handle_sharded_objects(self) -> bool:
        return True

    def save(self, sharded_state_dict: Any, checkpoint_dir: str | Path) -> None:
        FileSystemWriter(checkpoint_dir).finish(self._metadata, self._results)


class _OneAtATime(DefaultSavePlanner):
    """Makes a parameter when torch wants to write it; torch keeps it until its file is complete."""

    def __init__(self, model: AbstractModel, read: Callable[[str], Tensor]) -> None:
        super().__init__(flatten_state_dict=False)
        self._model = model
        self._tensors_of = PartReader(read)
        self._objects = {stored.unique_key: stored for stored in model.objects.values()}
        self._rules = {rule.megatron: rule for rule in weight_rules(model.spec)}
        self._param_of = {
            _index(piece): name
            for name, entry in model.params.items()
            for piece in pieces(entry, None)
        }
        self._latest: dict[MetadataIndex, Tensor] = {}

    def resolve_data(self, write_item: WriteItem) -> Tensor | io.BytesIO:
        if write_item.type == WriteItemType.BYTE_IO:
            return _packed(self._objects[write_item.index.fqn])
        if write_item.index not in self._latest:
            self._latest = {}  # before the next ones are made
            self._latest = self._made(self._param_of[write_item.index])
        return self._latest.pop(write_item.index)

    def _made(self, name: str) -> dict[MetadataIndex, Tensor]:
        rule, entry = self._rules[name], self._model.params[name]
        tensors = self._tensors_of(rule)
        spec = self._model.spec
        whole = to_megatron(
            rule.layout,
            tensors,
            num_groups=spec.num_groups,
            head_dim=spec.head_dim,
            interleaved_dim=spec.interleaved_dim,
            tp_size=1,
        )
        del tensors
        return {
            _index(piece): piece.data.reshape(chunk_of(piece).sizes)
            for piece in pieces(entry, whole)
        }


def _packed(stored: ShardedObject) -> io.BytesIO:
    """Return an object as Megatron packs it: a list of what this rank has of it."""
    packed = io.BytesIO()
    torch.save([stored.data], packed)
    return packed


def _index(piece: ShardedTensor) -> MetadataIndex:
    return MetadataIndex(piece.key, chunk_of(piece).offsets)


def _tensor_item(piece: ShardedTensor) -> WriteItem:
    return WriteItem(
        index=_index(piece),
        type=WriteItemType.SHARD,
        tensor_data=TensorWriteData(
            chunk=chunk_of(piece),
            properties=TensorProperties(dtype=piece.dtype),
            size=torch.Size(piece.global_shape),
        ),
    )


def _group_of(name: str) -> str:
    layer = _LAYER.match(name)
    return name if layer is None else layer.group(0)


def _placed(result: WriteResult) -> tuple[str, list[int] | None, int, int]:
    offset = result.index.offset
    place: _StorageInfo = result.storage_data
    return result.index.fqn, None if offset is None else list(offset), place.offset, place.length


def _result(
    file: str, key: str, offset: Sequence[int] | None, start: int, length: int
) -> WriteResult:
    return WriteResult(
        index=MetadataIndex(key, offset),
        size_in_bytes=length,
        storage_data=_StorageInfo(file, start, length),
    )
