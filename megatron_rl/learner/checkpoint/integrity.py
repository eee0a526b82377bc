"""Integrity of a checkpoint's files: all sizes, digests of small ones."""

import hashlib
import json
from pathlib import Path
from typing import Any

from megatron_rl.errors import CheckpointError
from megatron_rl.learner.checkpoint.steps import remedy
from megatron_rl.run_dir import write_json

_FILES = "files.json"
# Everything else depends on these, and they are small.
_HASHED = ("common.pt", ".metadata", "metadata.json")


def write_file_list(folder: Path) -> None:
    """List what a complete checkpoint consists of."""
    files = sorted(path for path in folder.iterdir() if path.name != _FILES)
    write_json(folder / _FILES, {path.name: _fact(path) for path in files})


def check_files(folder: Path) -> None:
    """Compare with the list; a checkpoint without one is taken as it is.

    Raises:
        CheckpointError: a file is missing or damaged; names it, with what to do.
    """
    path = folder / _FILES
    if not path.exists():
        return
    try:
        listed = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged: {error!r}; {remedy(folder)}") from error
    for name, fact in listed.items():
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing; {remedy(folder)}")
        found = _fact(folder / name)
        if found["bytes"] != fact["bytes"]:
            raise CheckpointError(
                f"{folder / name}: damaged: {found['bytes']} bytes long, but {fact['bytes']} were "
                f"written; {remedy(folder)}"
            )
        if found != fact:
            raise CheckpointError(
                f"{folder / name}: damaged: not the bytes that were written; {remedy(folder)}"
            )


def _fact(path: Path) -> dict[str, Any]:
    fact: dict[str, Any] = {"bytes": path.stat().st_size}
    if path.name in _HASHED:
        fact["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return fact
