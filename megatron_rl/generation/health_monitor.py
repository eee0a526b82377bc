"""Health monitor of a running server: it counts as hung once it has been silent for too long."""

import time
from collections.abc import Callable

_NUM_PROBES = 8
"""Times a server is asked before it counts as hung."""


class HealthMonitor:
    """Time since a server last answered; a server that hangs would hold its requests for ever.

    Only the HTTP side is monitored. A scheduler that hangs is ended by SGLang's own watchdog.
    """

    def __init__(
        self,
        answers: Callable[[], bool],
        *,
        patience_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin now, with a server that has just answered.

        Args:
            answers: asks the server; may take seconds.
            patience_s: silence for longer than this is a hang.
            clock: seconds.
        """
        self.patience_s = patience_s
        self._answers = answers
        self._clock = clock
        self._answered_at = self._asked_at = clock()

    def is_hung(self) -> bool:
        """Return whether the server has been silent for too long; asks it now and then."""
        if self._clock() - self._asked_at >= self.patience_s / _NUM_PROBES:
            if self._answers():
                self._answered_at = self._clock()
            self._asked_at = self._clock()
        return self._clock() - self._answered_at > self.patience_s
