"""Reader of single completions in a batch file, which may be gigabytes large.

Unlike safetensors' own reader it maps nothing into memory: a mapped file that another machine
removes, as the learner does with old batches, kills the process that looks at it.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_rl.batch import NO_VERSION, check_format
from megatron_rl.errors import BatchFileError

_DTYPES = {"I64": np.int64, "I32": np.int32}
_MAX_HEADER_BYTES = 1 << 30


class BatchReader:
    """One batch file; ``samples`` and ``metrics`` as in :class:`megatron_rl.batch.Batch`."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            BatchFileError: the file is missing, damaged or of another version.
        """
        self._path = path
        try:
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                if size > _MAX_HEADER_BYTES:
                    raise ValueError(f"a header of {size} bytes")
                self._fields = json.loads(file.read(size))
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from error
        self._data_start = 8 + size
        facts = self._fields["__metadata__"] if "__metadata__" in self._fields else {}
        found = facts["format_version"] if "format_version" in facts else None
        check_format(found, path)
        self.metrics: dict[str, float] = json.loads(facts["metrics"])
        self.samples: list[dict[str, Any]] = json.loads(facts["samples"])
        num_offsets = self._fields["offsets"]["shape"][0]
        self._offsets = self._read("offsets", 0, num_offsets).tolist()

    def completion(self, index: int) -> tuple[list[int], list[int]]:
        """Return token ids and policy versions of one completion, without its prompt.

        Raises:
            BatchFileError: the file is gone, or cut short.
        """
        start, end = self._offsets[index], self._offsets[index + 1]
        token_ids = self._read("token_ids_T", start, end)
        versions = self._read("policy_versions_T", start, end)
        sampled = versions != NO_VERSION
        return token_ids[sampled].tolist(), versions[sampled].tolist()

    def _read(self, name: str, start: int, end: int) -> NDArray[Any]:
        field = self._fields[name]
        dtype = np.dtype(_DTYPES[field["dtype"]]).newbyteorder("<")
        try:
            with self._path.open("rb") as file:
                file.seek(self._data_start + field["data_offsets"][0] + start * dtype.itemsize)
                found = np.frombuffer(file.read((end - start) * dtype.itemsize), dtype=dtype)
        except (OSError, ValueError) as error:
            raise _unreadable(self._path, error) from error
        if len(found) != end - start:
            raise _unreadable(self._path, "it is cut short")
        return found


def _unreadable(path: Path, reason: object) -> BatchFileError:
    return BatchFileError(f"{path}: cannot be read as a batch: {reason}")
