"""Requests to stop, acted on between two steps: by a signal, or by a job's time limit."""

import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from megatron_rl.errors import Interrupted

_LOG = logging.getLogger(__name__)


DEADLINE_VARIABLE = "MEGATRON_RL_DEADLINE"
"""Environment variable: when the job's time is up, in seconds since the epoch."""
_SLACK_S = 10.0
"""For what follows the save: the hand-over and the exit of every process."""
_SAFETY = 1.5
"""Steps and saves vary; this many times the longest of each must fit."""


class Deadline:
    """Says when another step with a save after it would no longer fit."""

    def __init__(
        self, environment: Mapping[str, str], *, clock: Callable[[], float] = time.time
    ) -> None:
        """Read the deadline; without one, there is always time."""
        self._at: float | None = None
        if DEADLINE_VARIABLE in environment:
            self._at = float(environment[DEADLINE_VARIABLE])
        self._clock = clock
        self._longest_step_s = self._longest_save_s = 0.0

    def note_step(self, seconds: float) -> None:
        """Take up how long a step took."""
        self._longest_step_s = max(self._longest_step_s, seconds)

    def note_save(self, seconds: float) -> None:
        """Take up how long a save took, until the checkpoint was complete."""
        self._longest_save_s = max(self._longest_save_s, seconds)

    def is_near(self) -> bool:
        """Return whether it is time to save and go."""
        if self._at is None:
            return False
        needed = _SAFETY * (self._longest_step_s + self._longest_save_s) + _SLACK_S
        return self._clock() + needed > self._at


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


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into Interrupted, once: a second one must not break the clean-up."""

    def stop(number: int, frame: FrameType | None) -> None:
        for again in (signal.SIGINT, signal.SIGTERM):
            signal.signal(again, signal.SIG_IGN)
        raise Interrupted(
            f"stopped by {signal.Signals(number).name}; run the same command again to resume"
        )

    previous = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
