"""Record of barren stretches in the run folder: what rollout reports, and what others read of it.

Rollout is the only writer. A line is a stretch as it was at a time, the last one the present.
"""

import dataclasses
import logging
import time
from pathlib import Path

from megatron_rl.rollout.barren import BarrenStretch
from megatron_rl.run_dir import append_jsonl, drop_unfinished_line, read_jsonl

_LOG = logging.getLogger(__name__)


class BarrenRecord:
    """Writes stretches to the log and to the run folder."""

    def __init__(self, path: Path) -> None:
        """Go on with a file of an earlier life, whose last stretch is over."""
        self._path = path
        drop_unfinished_line(path)
        left = current_stretch(path)
        if left is not None:
            self._append(dataclasses.replace(left, is_over=True))

    def report(self, stretch: BarrenStretch) -> None:
        """Take a report of a ``BarrenWatch``."""
        if stretch.is_over:
            _LOG.info("a group is kept again, after %d that were dropped", stretch.num_groups)
        else:
            _LOG.warning("nothing to learn: %s. What to do: %s", stretch, stretch.remedy)
        self._append(stretch)

    def _append(self, stretch: BarrenStretch) -> None:
        append_jsonl(self._path, {"time": time.time(), **dataclasses.asdict(stretch)})


def current_stretch(path: Path) -> BarrenStretch | None:
    """Return the stretch that was not over when rollout last reported, None without one."""
    last = None
    for record in read_jsonl(path):
        last = record
    if last is None or last["is_over"]:
        return None
    return BarrenStretch(**{key: value for key, value in last.items() if key != "time"})
