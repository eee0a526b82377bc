"""Conversion progress: the finished files, noted beside them so that a killed one goes on.

``progress.jsonl`` has a line that identifies the conversion, then a line for each finished file. A
file counts only if its bytes have the hash in its line.
"""

import dataclasses
import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_rl.conversion.manifest import TensorRecord
from megatron_rl.run_dir import append_jsonl, publish_atomically

_LOG = logging.getLogger(__name__)
_NAME = "progress.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedFile:
    """One file of the target."""

    name: str
    """Path relative to the target."""
    sha256: str
    tensors: Mapping[str, TensorRecord]
    """Tensors of the file, by Hugging Face name."""
    placement: Any
    """Position of each part in the file; JSON that only the format's writer reads."""


def resume(folder: Path, identity: Mapping[str, Any]) -> dict[str, FinishedFile]:
    """Prepare ``folder`` for writing; return the files of this conversion that it holds already.

    Args:
        identity: identity of the conversion; files of another conversion are removed.
    """
    header, files = _read(folder / _NAME)
    if header != dict(identity):
        shutil.rmtree(folder, ignore_errors=True)
        files = []
    folder.mkdir(parents=True, exist_ok=True)
    kept = [file for file in files if _is_whole(folder / file.name, file.sha256)]
    if files:
        _LOG.info("%s: going on after %d finished files", folder, len(kept))
    lines = [dict(identity), *(dataclasses.asdict(file) for file in kept)]
    payload = "".join(json.dumps(line) + "\n" for line in lines)
    publish_atomically(folder / _NAME, payload.encode())
    return {file.name: file for file in kept}


def finish_file(
    folder: Path, name: str, tensors: Mapping[str, TensorRecord], placement: Any
) -> FinishedFile:
    """Record that a file is complete."""
    file = FinishedFile(
        name=name, sha256=_sha256(folder / name), tensors=tensors, placement=placement
    )
    append_jsonl(folder / _NAME, dataclasses.asdict(file))
    return file


def end_progress(folder: Path) -> None:
    """Remove the progress file: the target is complete."""
    (folder / _NAME).unlink()


def _read(path: Path) -> tuple[dict[str, Any] | None, list[FinishedFile]]:
    """Return the recorded files; none if the progress file is missing or malformed."""
    try:
        # A crash may cut off the last line, which then has no line end.
        lines = [json.loads(line) for line in path.read_text().splitlines(True) if line[-1] == "\n"]
        header, *files = lines
        return header, [_finished_file(**fields) for fields in files]
    except (OSError, ValueError, KeyError, TypeError):
        return None, []


def _finished_file(
    *, name: str, sha256: str, tensors: dict[str, Any], placement: Any
) -> FinishedFile:
    records = {
        tensor: TensorRecord(**{**record, "shape": tuple(record["shape"])})
        for tensor, record in tensors.items()
    }
    return FinishedFile(name=name, sha256=sha256, tensors=records, placement=placement)


def _is_whole(path: Path, sha256: str) -> bool:
    return path.exists() and _sha256(path) == sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
