"""A polite request to stop: remembered by a signal handler, acted on between two steps."""

import signal
from types import FrameType


class StopRequest:
    """Set by SIGTERM, SIGINT or SIGUSR1 (which Slurm sends ahead of a time limit)."""

    def __init__(self) -> None:
        self.is_set = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._set)

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.is_set = True
