"""Start order of groups: they reach batches as they were started, not as they finish.

Short groups finish first. If batches took them first, the groups trained on would be shorter than
the groups started. So the oldest group that still runs holds back all groups started after it,
until it lags too far; from then on the group is passed over, and joins the next batch after it
completes. No group is ever dropped for being long. No asyncio in here.
"""

from collections import deque
from collections.abc import Callable

from megatron_rl.types import Cursor


class StartOrder:
    """Every started group, until it is taken into a batch or dropped. Exactly one of the two."""

    def __init__(self, cursor: Cursor, *, max_lag_groups: int) -> None:
        """Go on after ``cursor``.

        Args:
            cursor: where the last batch left the curriculum; its outstanding groups start first.
            max_lag_groups: a running group is passed over once this many groups started after it
                are complete. 0 means the order of completion.
        """
        self._max_lag_groups = max_lag_groups
        self._to_restart = deque(sorted(cursor.outstanding))
        self._next_index = cursor.next_index
        # Indices grow in start order, so comparing indices compares starts.
        self._running: dict[int, int] = {}  # index -> later groups that are complete
        self._complete: set[int] = set()

    @property
    def next_to_start(self) -> int:
        """Index of the group that starts next."""
        return self._to_restart[0] if self._to_restart else self._next_index

    def start(self) -> int:
        """Return the index of the group to start now."""
        if self._to_restart:
            index = self._to_restart.popleft()
        else:
            index, self._next_index = self._next_index, self._next_index + 1
        self._running[index] = 0
        return index

    def complete(self, index: int) -> None:
        """Note that a running group is whole and may be trained on."""
        del self._running[index]
        self._complete.add(index)
        for earlier in self._running:
            if earlier < index:
                self._running[earlier] += 1

    def drop(self, index: int) -> None:
        """Forget a running group that teaches nothing or has failed."""
        del self._running[index]

    def take(
        self, size: int, *, size_of: Callable[[int], int] = lambda index: 1
    ) -> list[int] | None:
        """Return the next groups in start order, None while they are not there.

        Args:
            size: they are as many as have this size together, or more by less than the last one's.
            size_of: size of a group; by itself groups are counted.
        """
        taken = []
        for index in sorted(self._ready()):
            taken.append(index)
            size -= size_of(index)
            if size <= 0:
                self._complete.difference_update(taken)
                return taken
        return None

    @property
    def num_open(self) -> int:
        """Groups started and neither taken nor dropped."""
        return len(self._running) + len(self._complete)

    def cursor(self) -> Cursor:
        """Return the cursor for a restart: every group up to the last take is settled."""
        return Cursor(
            next_index=self._next_index,
            outstanding=tuple(sorted([*self._to_restart, *self._running, *self._complete])),
        )

    def _ready(self) -> list[int]:
        holding = [i for i, lag in self._running.items() if lag < self._max_lag_groups]
        if not holding:
            return list(self._complete)
        head = min(holding)
        return [index for index in self._complete if index < head]
