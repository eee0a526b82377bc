"""Conversion manifest: the source, and every tensor's shape, type and SHA-256."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from megatron_rl.errors import ModelError
from megatron_rl.run_dir import write_json

_NAME = "manifest.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorRecord:
    """One tensor."""

    shape: tuple[int, ...]
    dtype: str
    sha256: str
    """SHA-256 of the bytes, in row-major order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A finished conversion; written last."""

    source: str
    """Absolute path of the source."""
    source_time_ns: int
    """Modification time of the source."""
    dtype: str
    """Type of the tensors written."""
    tensors: Mapping[str, TensorRecord]
    """Tensors by Hugging Face name."""


def record_of(tensor: Tensor) -> TensorRecord:
    """Describe one tensor, on any device."""
    data = tensor.detach().cpu().contiguous()
    return TensorRecord(
        shape=tuple(data.shape),
        dtype=str(data.dtype).removeprefix("torch."),
        sha256=hashlib.sha256(data.view(torch.uint8).numpy().data).hexdigest(),
    )


def check_against(manifest: Manifest, name: str, tensor: Tensor) -> None:
    """Raise ModelError when a tensor differs in a byte from the converted one."""
    expected, actual = manifest.tensors[name], record_of(tensor)
    if actual != expected:
        raise ModelError(f"tensor {name} reads back as {actual}, but was converted as {expected}")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``."""
    write_json(folder / _NAME, dataclasses.asdict(manifest))


def read_manifest(folder: Path) -> Manifest | None:
    """Read ``manifest.json``; None without one.

    Raises:
        ModelError: the manifest is damaged.
    """
    path = folder / _NAME
    if not path.exists():
        return None
    try:
        fields = json.loads(path.read_text())
        tensors = {
            name: TensorRecord(**{**record, "shape": tuple(record["shape"])})
            for name, record in fields.pop("tensors").items()
        }
        return Manifest(**fields, tensors=tensors)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: cannot be read: {error!r}") from error
