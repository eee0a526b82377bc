"""Meeting of a new process group: a store whose end releases whoever waits for a missing rank."""

import datetime
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future

import torch.distributed as dist

_POLL_S = 0.0005


class Meeting:
    """Store through which the ranks of a new group meet; once it ends, none waits any longer.

    It lives as long as the group: NCCL connects its ranks in the first broadcast.
    """

    def __init__(self, ranks: Mapping[str, range], timeout: datetime.timedelta) -> None:
        """Open it, on a port that the kernel chooses, for the ranks of servers by name.

        The handshake of all workers is left to the servers: waiting here would block for ever on
        one that refuses.
        """
        self._ranks = dict(ranks)
        self._timeout = timeout
        self.world_size = 1 + sum(map(len, ranks.values()))
        self._store: dist.TCPStore | None = dist.TCPStore(
            "127.0.0.1", 0, self.world_size, is_master=True, timeout=timeout, wait_for_workers=False
        )
        self.port = self._store.port
        # Our own connection ends with the store, as those of servers do.
        self.connection = dist.TCPStore(
            "127.0.0.1", self.port, is_master=False, timeout=self._timeout
        )
        self.culprits: list[str] = []
        """Servers for which the others waited. Those may have failed because it came to an end."""
        self._failed: set[str] = set()
        self._ending = threading.Lock()

    def end_if_failed(self, name: str, answer: Future[object]) -> None:
        """End everybody's wait for a server that does not join.

        Not before the others wait, or their time is up: one that comes later would try to connect
        for as long as it may.
        """
        if answer.exception() is None:
            return
        until = time.monotonic() + self._timeout.total_seconds()
        self._failed.add(name)
        while self._absent() - self._failed and time.monotonic() < until:
            time.sleep(_POLL_S)
        self._end(sorted(self._failed))

    def end(self) -> None:
        """End everybody's wait, which has been long enough."""
        self._end(self._absent())

    def _end(self, culprits: Iterable[str]) -> None:
        with self._ending:
            if self._store is not None:
                self.culprits.extend(culprits)
                self._store = None

    def _absent(self) -> set[str]:
        """Return the servers of which a rank has not come; gloo says who has by a key."""
        with self._ending:
            if self._store is None:
                return set()
            come = {key.rpartition("/")[2] for key in self._store.list_keys()}
        return {n for n, ranks in self._ranks.items() if not come.issuperset(map(str, ranks))}
