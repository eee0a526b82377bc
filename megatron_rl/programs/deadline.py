"""The end of a job's time, kept in sight between two steps."""

import time
from collections.abc import Callable, Mapping

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
