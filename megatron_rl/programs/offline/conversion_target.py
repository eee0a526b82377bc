"""Target folder of a conversion: made under another name, verified, then renamed into place.

A target appears whole. A conversion that was killed goes on after its last finished file; a target
that is there already with the same source and type is kept as it is.
"""

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_rl.conversion.manifest import (
    Manifest,
    TensorRecord,
    check_against,
    read_manifest,
    record_of,
    write_manifest,
)
from megatron_rl.conversion.progress import FinishedFile, end_progress
from megatron_rl.errors import ConfigError
from megatron_rl.run_dir import write_json

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """What is converted, and into which type."""

    source: Path
    index: Path
    """A file of the source that changes whenever its tensors do."""
    dtype: str

    def identity(self) -> dict[str, Any]:
        """Return what makes a manifest, or the progress of a conversion, this conversion's."""
        return {
            "source": str(self.source.resolve()),
            "source_time_ns": self.index.stat().st_mtime_ns,
            "dtype": self.dtype,
        }

    def manifest(self, files: Iterable[FinishedFile], order: Iterable[str]) -> Manifest:
        """Return the manifest of finished files, with tensors in this order."""
        records = {name: record for file in files for name, record in file.tensors.items()}
        return Manifest(**self.identity(), tensors={name: records[name] for name in order})


class Recorded:
    """Weights in the type to be written, leaving a record of each."""

    def __init__(
        self, read: Callable[[str], Tensor], type_of: Callable[[str], torch.dtype]
    ) -> None:
        self._read = read
        self._type_of = type_of
        self._records: dict[str, TensorRecord] = {}

    def __call__(self, name: str) -> Tensor:
        tensor = self._read(name).to(self._type_of(name))
        self._records[name] = record_of(tensor)
        return tensor

    def taken(self) -> dict[str, TensorRecord]:
        """Return the records since the last call."""
        records, self._records = self._records, {}
        return records


def finished_target(conversion: Conversion, target: Path) -> Manifest | None:
    """Return the manifest of a target that this very conversion has made, None without a target."""
    if not target.exists():
        return None
    manifest = read_manifest(target)
    if manifest is None:
        raise ConfigError(f"{target}: exists and is no finished conversion; choose another folder")
    if manifest != Manifest(**conversion.identity(), tensors=manifest.tensors):
        raise ConfigError(
            f"{target}: made from {manifest.source} in {manifest.dtype} (or that has changed "
            "since); remove it or choose another folder"
        )
    _LOG.info("%s is finished already", target)
    return manifest


def partial_of(target: Path) -> Path:
    """Return where a target is made."""
    return target.with_name(f".{target.name}.converting")


def put_in_place(partial: Path, target: Path, manifest: Manifest) -> None:
    """Give a complete conversion its name."""
    _state_dtype(partial, manifest.dtype)
    write_manifest(partial, manifest)
    end_progress(partial)
    partial.replace(target)


def verify(manifest: Manifest, read: Callable[[str], Tensor]) -> None:
    """Read every tensor back and compare it, byte for byte, with what was converted.

    Raises:
        ModelError: one differs.
    """
    for name in manifest.tensors:
        check_against(manifest, name, read(name))
    _LOG.info("%d tensors read back byte for byte", len(manifest.tensors))


def _state_dtype(folder: Path, dtype: str) -> None:
    """Say in config.json what the weights are, under the keys that it has for that."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    write_json(path, config | {key: dtype for key in ("dtype", "torch_dtype") if key in config})
