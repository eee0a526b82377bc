"""Router statistics: completions in flight, returned and moved, and the time spent on them."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterSnapshot:
    """Counters of the router since it was made."""

    num_routable: int
    """Servers that may receive requests now."""
    in_flight: int
    """Completions being generated now."""
    finished: int
    """Completions returned."""
    moved: int
    """Completions started again on another server."""
    generated_tokens: int
    """Tokens of the completions returned."""
    busy_s: float
    """Seconds with at least one completion in flight."""


class RouterStats:
    """Counts completions, and the time during which at least one is in flight."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        """Begin idle; ``clock`` gives seconds."""
        self._clock = clock
        self._in_flight = self._finished = self._moved = self._generated_tokens = 0
        self._busy_s = self._busy_since = 0.0

    def begin(self) -> None:
        """Count a completion as in flight."""
        if not self._in_flight:
            self._busy_since = self._clock()
        self._in_flight += 1

    def end(self) -> None:
        """Count a completion as no longer in flight, however it ended."""
        self._in_flight -= 1
        if not self._in_flight:
            self._busy_s += self._clock() - self._busy_since

    def finish(self, *, num_tokens: int) -> None:
        """Count a completion that was returned."""
        self._finished += 1
        self._generated_tokens += num_tokens

    def move(self) -> None:
        """Count a completion whose server failed."""
        self._moved += 1

    def snapshot(self, *, num_routable: int) -> RouterSnapshot:
        """Return the counters of this moment."""
        busy_now = self._clock() - self._busy_since if self._in_flight else 0.0
        return RouterSnapshot(
            num_routable=num_routable,
            in_flight=self._in_flight,
            finished=self._finished,
            moved=self._moved,
            generated_tokens=self._generated_tokens,
            busy_s=self._busy_s + busy_now,
        )
