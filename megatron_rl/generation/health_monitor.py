"""Whether a server that runs still answers."""

import time
from collections.abc import Callable

_LOOKS = 8
"""Times a server is asked before it counts as hung."""


class Pulse:
    """Feels for a server's answers; one that hangs would hold its requests for ever.

    This is about the HTTP side. A scheduler that hangs is ended by SGLang's own watchdog.
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
        self._felt_at = self._looked_at = clock()

    def is_lost(self) -> bool:
        """Return whether the server has been silent for too long; asks it now and then."""
        if self._clock() - self._looked_at >= self.patience_s / _LOOKS:
            if self._answers():
                self._felt_at = self._clock()
            self._looked_at = self._clock()
        return self._clock() - self._felt_at > self.patience_s
