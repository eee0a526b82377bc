"""Megatron checkpoints of model weights alone, in one process that holds the whole model.

Megatron's ``torch_dist`` format is cut anew whenever it is loaded, so what is written here loads at
any layout, and what any layout has written is read here.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from megatron_rl.conversion.families import ModelSpec
from megatron_rl.errors import CheckpointError, ModelError
from megatron_rl.learner.checkpoint import checkpoint_errors, content_metadata
from megatron_rl.learner.model import build_frozen_chunks, transformer_config
from megatron_rl.learner.parallel import Parallel, Place, initialize_parallel, shut_down_parallel
from megatron_rl.learner.platform import detect_platform
from megatron_rl.planning.layouts import Layout

_ALONE = Layout(tp=1, sp=False, pp=1, vpp=1, cp=1, ep=1, etp=1)
_EMBEDDING = "embedding.word_embeddings.weight"
_OPTIMIZER = "optimizer."


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeModel:
    """A model that is uncut, in one process, without gradients or optimiser."""

    chunks: list[Any]
    spec: ModelSpec
    parallel: Parallel


@contextmanager
def open_whole_model(
    spec: ModelSpec, *, dtype: torch.dtype, cpu_threads: int
) -> Iterator[WholeModel]:
    """Build the model with uninitialised weights; takes this process's place in a job of one."""
    platform = detect_platform(cpu_threads=cpu_threads, local_rank=0)
    platform.install()
    place = Place(rank=0, world_size=1, local_rank=0)
    parallel = initialize_parallel(place, platform, _ALONE, seed=0)
    try:
        config = transformer_config(spec, parallel, dtype=dtype, overrides={})
        chunks = build_frozen_chunks(spec, config, parallel, platform)
        yield WholeModel(chunks=chunks, spec=spec, parallel=parallel)
    finally:
        shut_down_parallel()


def write_weights(model: WholeModel, folder: Path) -> None:
    """Write the weights as a ``torch_dist`` checkpoint.

    Raises:
        CheckpointError: it cannot be written.
    """
    folder.mkdir(parents=True)
    with checkpoint_errors(f"{folder}: cannot be written"):
        dist_checkpointing.save(_sharded(model), str(folder), content_metadata=content_metadata())


def read_weights(model: WholeModel, folder: Path) -> None:
    """Fill the model from a checkpoint of any layout, of a training run or of weights alone.

    Raises:
        ModelError: it is of another model; names the first tensor that differs.
        CheckpointError: it is damaged.
    """
    _check_shapes(_sharded(model), _stored_tensors(folder), folder)
    with checkpoint_errors(f"{folder}: damaged"):
        loaded = dist_checkpointing.load(_sharded(model), str(folder))
    (chunk,) = model.chunks
    chunk.load_state_dict(loaded["model"], strict=True)


def stored_dtype(folder: Path) -> torch.dtype:
    """Return the type of the weights in a checkpoint.

    Raises:
        CheckpointError: the folder is no Megatron checkpoint.
    """
    stored = _stored_tensors(folder)
    if _EMBEDDING not in stored:
        raise CheckpointError(f"{folder}: has no {_EMBEDDING}, so this is no checkpoint of a GPT")
    return stored[_EMBEDDING].properties.dtype


def _sharded(model: WholeModel) -> dict[str, Any]:
    (chunk,) = model.chunks
    return {"model": chunk.sharded_state_dict(metadata=content_metadata())}


def _stored_tensors(folder: Path) -> dict[str, TensorStorageMetadata]:
    if not (folder / ".metadata").exists():
        raise CheckpointError(f"{folder}: no .metadata, so this is no Megatron checkpoint")
    with checkpoint_errors(f"{folder}: damaged"):
        entries = FileSystemReader(folder).read_metadata().state_dict_metadata
    return {n: entry for n, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}


def _check_shapes(
    state: dict[str, Any], stored: Mapping[str, TensorStorageMetadata], folder: Path
) -> None:
    """Compare; ``state`` is used up, since Megatron expands its merged tensors in place."""
    apply_factories(state)
    names = set()
    for tensor in nested_values(state):
        if not isinstance(tensor, ShardedTensor):
            continue
        names.add(tensor.key)
        if tensor.key not in stored:
            raise ModelError(
                f"{folder}: tensor {tensor.key} {tensor.global_shape} of config.json is missing"
            )
        entry = stored[tensor.key]
        if not _fits(tensor, entry):
            raise ModelError(
                f"{folder}: tensor {tensor.key} is {tuple(entry.size)} in the checkpoint, but "
                f"{tuple(tensor.global_shape)} by config.json"
            )
    for name in sorted(stored.keys() - names):
        if not name.startswith(_OPTIMIZER):
            raise ModelError(f"{folder}: tensor {name} has no place in config.json")


def _fits(tensor: ShardedTensor, entry: TensorStorageMetadata) -> bool:
    wanted, found = tuple(tensor.global_shape), tuple(entry.size)
    if tensor.allow_shape_mismatch:
        # The vocabulary is padded to a multiple of the tensor-parallel ranks, one part each.
        return wanted[1:] == found[1:] and 0 <= found[0] - wanted[0] < len(entry.chunks)
    return wanted == found
