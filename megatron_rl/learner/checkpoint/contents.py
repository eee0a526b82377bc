"""Contents of a Megatron checkpoint, once all its files are there and whole."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch.distributed.checkpoint as dcp
from megatron.core.dist_checkpointing.strategies.cached_metadata_filesystem_reader import (
    CachedMetadataFileSystemReader,
)
from torch.distributed.checkpoint import DefaultLoadPlanner
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from megatron_rl.errors import CheckpointError

_REMEDY = "copy the checkpoint again, or use another step"


def open_checkpoint(folder: Path) -> tuple[CachedMetadataFileSystemReader, Metadata]:
    """Look at every file of a ``torch_dist`` checkpoint; return its reader and what it holds.

    Files of tensors are looked at for their size alone, so this takes no longer for a large model.

    Raises:
        CheckpointError: the folder is no checkpoint, or a file is missing, cut off or damaged;
            names the file.
    """
    if not (folder / ".metadata").exists():
        raise CheckpointError(
            f"{folder}: no .metadata, so this is no Megatron checkpoint; name a step_NNNNNN "
            "folder, or the folder of the steps"
        )
    _check_archive(folder / "common.pt")
    _check_json(folder / "metadata.json")
    reader, metadata = _read_metadata(folder)
    _check_sizes(folder, metadata)
    return reader, metadata


def stored_tensors(metadata: Metadata) -> Mapping[str, TensorStorageMetadata]:
    """Return the tensors of a checkpoint by Megatron's keys."""
    entries = metadata.state_dict_metadata
    return {key: e for key, e in entries.items() if isinstance(e, TensorStorageMetadata)}


def _check_archive(path: Path) -> None:
    """Compare the checksums that torch has left in a file of its own."""
    if not path.exists():
        raise CheckpointError(f"{path}: missing; {_REMEDY}")
    try:
        with zipfile.ZipFile(path) as archive:
            is_whole = archive.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError):
        is_whole = False
    if not is_whole:
        raise CheckpointError(f"{path}: damaged or cut off; {_REMEDY}")


def _check_json(path: Path) -> None:
    try:
        json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); {_REMEDY}") from error


def _read_metadata(folder: Path) -> tuple[CachedMetadataFileSystemReader, Metadata]:
    reader, planner = (
        CachedMetadataFileSystemReader(folder),
        DefaultLoadPlanner(flatten_state_dict=False),
    )
    try:
        # Loading nothing reads the metadata, and turns whatever is wrong with it into one error.
        dcp.load({}, storage_reader=reader, planner=planner)
    except CheckpointException as error:
        raise CheckpointError(f"{folder / '.metadata'}: damaged or cut off; {_REMEDY}") from error
    assert planner.metadata is not None
    return reader, planner.metadata


def _check_sizes(folder: Path, metadata: Metadata) -> None:
    needed: dict[str, int] = {}
    for place in metadata.storage_data.values():
        end = place.offset + place.length
        needed[place.relative_path] = max(end, needed.get(place.relative_path, 0))
    for name, size in sorted(needed.items()):
        path = folder / name
        if not path.exists():
            raise CheckpointError(f"{path}: missing, though .metadata names it; {_REMEDY}")
        if path.stat().st_size < size:
            raise CheckpointError(
                f"{path}: cut off, {path.stat().st_size:,} of at least {size:,} bytes; {_REMEDY}"
            )
