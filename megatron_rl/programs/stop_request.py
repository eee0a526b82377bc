"""A polite request to stop: remembered by a signal handler, acted on between two steps."""

import logging
import signal
from types import FrameType

from megatron_rl.programs.deadline import Deadline

_LOG = logging.getLogger(__name__)


class StopRequest:
    """Set by SIGTERM, SIGINT or SIGUSR1 (which Slurm sends ahead of a time limit)."""

    def __init__(self, deadline: Deadline | None = None) -> None:
        """Listen to signals from now on.

        Args:
            deadline: counts as a request as well, once it is near.
        """
        self._deadline = deadline
        self._is_asked = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._receive)

    @property
    def is_set(self) -> bool:
        """Whether it is time to stop."""
        if not self._is_asked and self._deadline is not None and self._deadline.is_near():
            _LOG.info("time is nearly up: stopping before the job's limit")
            self._is_asked = True
        return self._is_asked

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._is_asked = True
        if number == signal.SIGUSR1:
            # It is repeated, and must not kill a process that has put its handlers away to end.
            signal.signal(number, signal.SIG_IGN)
