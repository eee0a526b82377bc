"""Outcomes of groups in the run folder: one line per batch, from which the curriculum goes on.

Rollout is the only writer. The line of a batch is on disk before the batch file is, so it is there
whenever the file is; a line whose batch a crash prevented is removed at the next start. A line is::

    {"step": 7, "sources": ["gsm"], "borders": [{
        "next_index": 96, "outstanding": [[95, 0, 1183...]], "visits": [96],
        "settled": [[90, 0, 9172..., 3, 16], ...]}]}

where 95 and 90 are groups, 0 is a source, the long numbers are digests of problem ids, and 3 of 16
completions were right.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from megatron_rl.data.curriculum.lifecycle import BorderRecord, SourceKey
from megatron_rl.errors import BatchFileError
from megatron_rl.types import Cursor, GroupOutcome

_LOG = logging.getLogger(__name__)


class OutcomeLog:
    """Reads and appends the outcomes of a run."""

    def __init__(self, path: Path) -> None:
        """Use the file at ``path``, which appears with the first line."""
        self._path = path

    def open(self, step: int, cursor: Cursor) -> Iterator[BorderRecord]:
        """Yield the borders before ``step``, then remove what was recorded for it and later.

        Args:
            step: first batch that is not written yet.
            cursor: the curriculum after the batch before it.

        Raises:
            BatchFileError: the outcomes are of other batches.
        """
        last_step, last = -1, None
        for line in self._lines_before(step):
            last_step = line["step"]
            for last in _records_of(line):
                yield last
        if last is not None and last_step == step - 1 and last.cursor != cursor:
            raise BatchFileError(
                f"{self._path}: the outcomes of batch {last_step} do not fit its file; both must "
                "be of one run. Restore them, or start a new run_dir"
            )
        if last_step < step - 1:
            _LOG.warning(
                "%s: the outcomes of batches %d to %d are not there: the curriculum goes on with "
                "what it knew before",
                *(self._path, last_step + 1, step - 1),
            )

    def append(self, step: int, records: Sequence[BorderRecord]) -> None:
        """Write the line of ``step``; it is on disk on return."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(_line_of(step, records), separators=(",", ":")) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _lines_before(self, step: int) -> Iterator[dict[str, Any]]:
        """Yield the lines of batches before ``step``, and cut off what is behind them."""
        if not self._path.exists():
            return
        size = 0
        with self._path.open("rb") as file:
            for text in file:
                # The last line may be cut short, or of a batch that a crash prevented.
                line = json.loads(text) if text.endswith(b"\n") else None
                if line is None or line["step"] >= step:
                    os.truncate(self._path, size)
                    return
                size += len(text)
                yield line


def _line_of(step: int, records: Sequence[BorderRecord]) -> dict[str, Any]:
    sources = list(records[-1].visits)
    number = {name: place for place, name in enumerate(sources)}
    return {
        "step": step,
        "sources": sources,
        "borders": [
            {
                "next_index": record.cursor.next_index,
                "outstanding": [
                    [index] if given is None else [index, number[given.source], given.key]
                    for index, given in zip(
                        record.cursor.outstanding, record.outstanding, strict=True
                    )
                ],
                "visits": list(record.visits.values()),
                "settled": [
                    [
                        *(outcome.index, number[source], key),
                        *(outcome.num_correct, outcome.num_completions),
                    ]
                    for outcome, (source, key) in record.settled
                ],
            }
            for record in records
        ],
    }


def _records_of(line: dict[str, Any]) -> Iterator[BorderRecord]:
    sources = line["sources"]
    for border in line["borders"]:
        outstanding = border["outstanding"]
        yield BorderRecord(
            cursor=Cursor(
                next_index=border["next_index"],
                outstanding=tuple(index for index, *_ in outstanding),
            ),
            visits=dict(zip(sources, border["visits"], strict=True)),
            settled=[
                (
                    GroupOutcome(
                        index=index, num_correct=num_correct, num_completions=num_completions
                    ),
                    SourceKey(sources[place], key),
                )
                for index, place, key, num_correct, num_completions in border["settled"]
            ],
            outstanding=[
                SourceKey(sources[given[0]], given[1]) if given else None
                for _, *given in outstanding
            ],
        )
