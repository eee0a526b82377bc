"""State of one server rank from one order to the next: its store, its groups, what they bring."""

import collections
import datetime
import socket
from typing import Any, NamedTuple

import torch.distributed as dist

from .groups import end_group
from .regions import RefusedError
from .sister import Sister
from .transfer import Message

CONNECT = datetime.timedelta(seconds=30)
_MOST_TOKENS = 1024


class Feed(NamedTuple):
    """A group that shards come through, and the messages that were agreed on."""

    name: str
    group: Any
    messages: tuple[Message, ...]
    digest: str


class State:
    """What one rank keeps from one order to the next."""

    def __init__(self) -> None:
        self._store: tuple[tuple[str, int], dist.TCPStore] | None = None
        self.group: tuple[str, Any] | None = None
        """With the learner ranks that send to this server."""
        self.messages: tuple[Message, ...] = ()
        self.digest = ""
        self.feeder: Feed | None = None
        """The server that passes shards on to this one."""
        self.sister: Sister | None = None
        """The server that this one passes shards on to."""
        self._tokens: collections.deque[str] = collections.deque(maxlen=_MOST_TOKENS)

    def use(self, token: str) -> None:
        """Take the token of an order; RefusedError where an earlier order had it."""
        if token in self._tokens:
            raise RefusedError("an order with this token has been given before")
        self._tokens.append(token)

    def store(self, address: tuple[str, int]) -> dist.TCPStore:
        """Return the store of the learner that gives the order; that of an earlier one is left.

        A learner that was started again may have its store where the earlier one had it.
        """
        if self._store is None or self._store[0] != address or not _is_alive(self._store[1]):
            self._store = None
            # Refused at once where nobody listens; a store would try for a minute.
            socket.create_connection(address, timeout=CONNECT.total_seconds()).close()
            self._store = (address, dist.TCPStore(*address, timeout=CONNECT))
        return self._store[1]

    def feed(self, name: str) -> Feed:
        """Return the group of this name that shards come through; RefusedError where none does."""
        if self.group is not None and self.group[0] == name:
            return Feed(*self.group, self.messages, self.digest)
        if self.feeder is not None and self.feeder.name == name:
            return self.feeder
        raise RefusedError(f"this rank is not in group {name!r}")

    def leave(self) -> None:
        """End the learner's group, whatever state it is in, and pass nothing on."""
        group, self.group = self.group, None
        if group is not None:
            end_group(group[1])
        self.leave_sister()

    def leave_feeder(self) -> None:
        """End the group with the server that feeds this one, and pass nothing on."""
        feeder, self.feeder = self.feeder, None
        if feeder is not None:
            end_group(feeder.group)
        self.leave_sister()

    def leave_sister(self) -> None:
        """End the group with the server that this one feeds."""
        sister, self.sister = self.sister, None
        if sister is not None:
            sister.leave()


def _is_alive(store: dist.TCPStore) -> bool:
    try:
        store.num_keys()
    except RuntimeError:
        return False
    return True
