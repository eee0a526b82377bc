"""SFT files: JSON lines of {"prompt", "response"}; the loss is on the response only."""

from dataclasses import dataclass
from pathlib import Path

from megatron_rl.data.jsonl import read_records, text_field


@dataclass(frozen=True, kw_only=True, slots=True)
class SftPair:
    """A prompt and the response to imitate."""

    prompt: str
    response: str


def load_sft_pairs(path: Path) -> list[SftPair]:
    """Read the pairs of ``path`` in the order of the file; DataError names file, line and fault."""
    return [
        SftPair(
            prompt=text_field(record, "prompt", where),
            response=text_field(record, "response", where),
        )
        for where, record in read_records(path)
    ]
