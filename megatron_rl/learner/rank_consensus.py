"""Rank consensus: all ranks act on what rank 0 sees, and stop when any is asked to."""

import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from megatron_rl.learner.device.parallel import Parallel

_HEARTBEAT_S = 1.0
_POLL_S = 0.02


class RankConsensus:
    """Decisions every rank takes alike.

    Ranks other than 0 wait in a collective. Rank 0 answers at least every second, so that a
    collective never outlives its time-out however long the wait, and a signal that reached only
    one rank is noticed.
    """

    def __init__(self, parallel: Parallel, device: torch.device) -> None:
        self._parallel = parallel
        self._device = device

    def decide(self, look: Callable[[], str | None], *, wants_stop: bool) -> str | None:
        """Return "stop" when any rank wants to, else what ``look`` returned on rank 0.

        Args:
            look: called on rank 0 only, until it returns something or a heartbeat is due.
            wants_stop: whether this rank was asked to stop.
        """
        seen = [self._wait(look)] if self._parallel.is_first and not wants_stop else [None]
        stop = torch.tensor([float(wants_stop)], device=self._device)
        dist.all_reduce(stop, op=dist.ReduceOp.MAX)
        if stop.item():
            return "stop"
        dist.broadcast_object_list(seen, src=0, device=self._device)
        return seen[0]

    def _wait(self, look: Callable[[], str | None]) -> str | None:
        deadline = time.monotonic() + _HEARTBEAT_S
        while True:
            seen = look()
            if seen is not None or time.monotonic() > deadline:
                return seen
            time.sleep(_POLL_S)
