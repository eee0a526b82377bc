"""SFT files: JSON lines of {"prompt", "response"}; the loss is on the response only."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_rl.data.jsonl import read_records, text_field
from megatron_rl.data.rows import Rows, open_rows


@dataclass(frozen=True, kw_only=True, slots=True)
class SftPair:
    """A prompt and the response to imitate."""

    prompt: str
    response: str


def load_sft_pairs(path: Path) -> list[SftPair]:
    """Read the pairs of ``path`` in the order of the file; DataError names file, line and fault."""
    return [_pair(record, where) for where, record in read_records(path)]


def open_sft_rows(path: Path) -> Rows:
    """Open pairs that are read when asked for; DataError names the first that is none."""
    rows = open_rows(path, columns=("prompt", "response"))
    for index, record in enumerate(rows.records(0, len(rows))):
        _pair(record, rows.where(index))
    return rows


def sft_pair_at(rows: Rows, index: int) -> SftPair:
    """Return one pair of :func:`open_sft_rows`."""
    (record,) = rows.records(index, index + 1)
    return _pair(record, rows.where(index))


def _pair(record: Mapping[str, Any], where: str) -> SftPair:
    return SftPair(
        prompt=text_field(record, "prompt", where), response=text_field(record, "response", where)
    )
