"""Two-lane priority queue for verifier workers: slow verdicts never hold all workers.

A hostile answer can take its whole deadline. If hostile answers could take any worker, a handful
would stall all other answers. So a verdict starts in the quick lane and changes to the slow one
when it takes long. The slow lane leaves a quarter of the workers free, and at least two; one of two
or three workers, and none where there is only one.
"""

import asyncio
import heapq
import itertools
from enum import Enum


class Lane(Enum):
    """Lane of a verdict, by its expected execution time."""

    QUICK = "quick"
    SLOW = "slow"


class PriorityLanes:
    """The right to use a worker, given in order of priority; the workers are the pool's."""

    def __init__(self, num_workers: int) -> None:
        """Begin with all workers free."""
        self._free = num_workers
        # Two if there are enough: one may be busy with a verdict that turns out to be slow.
        num_reserved = max(min(2, num_workers // 2), num_workers // 4)
        self._slow_room = num_workers - num_reserved
        self._queues: dict[Lane, list[tuple[int, int, asyncio.Future[None]]]] = {
            lane: [] for lane in Lane
        }
        self._ties = itertools.count()
        self.num_waiting = 0
        """Verdicts that wait for a worker now."""

    async def enter(self, lane: Lane, order: int) -> None:
        """Wait for a worker; among those that wait, the smallest ``order`` goes first."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queues[lane], (order, next(self._ties), turn))
        self._serve()
        self.num_waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave(lane)
            raise
        finally:
            self.num_waiting -= 1

    def leave(self, lane: Lane) -> None:
        """Give the worker back."""
        self._free += 1
        self._slow_room += lane is Lane.SLOW
        self._serve()

    def change_to_slow(self) -> bool:
        """Move one verdict from the quick lane to the slow one; return False if that is full."""
        if self._slow_room == 0:
            return False
        self._slow_room -= 1
        return True

    def is_awaited(self, lane: Lane) -> bool:
        """Return whether a verdict of this lane waits for a worker."""
        return any(not turn.done() for _, _, turn in self._queues[lane])

    def close(self, error: Exception) -> None:
        """Raise ``error`` in every call of :meth:`enter` that waits."""
        for queue in self._queues.values():
            for _, _, turn in queue:
                if not turn.done():
                    turn.set_exception(error)
            queue.clear()

    def _serve(self) -> None:
        while self._free and (lane := self._next_lane()) is not None:
            _, _, turn = heapq.heappop(self._queues[lane])
            self._free -= 1
            self._slow_room -= lane is Lane.SLOW
            turn.set_result(None)

    def _next_lane(self) -> Lane | None:
        """Return the lane whose first verdict is next, among the lanes that may have a worker."""
        for queue in self._queues.values():
            while queue and queue[0][2].done():  # its caller has stopped waiting
                heapq.heappop(queue)
        open_lanes = [Lane.QUICK, Lane.SLOW] if self._slow_room else [Lane.QUICK]
        waiting = [lane for lane in open_lanes if self._queues[lane]]
        return min(waiting, key=lambda lane: self._queues[lane][0][:2], default=None)
