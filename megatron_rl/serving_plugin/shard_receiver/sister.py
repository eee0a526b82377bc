"""Sister server's rank to which this rank passes on what arrives, while more arrives."""

import collections
import contextlib
import datetime
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from .groups import end_group

FEEDER_RANK, SISTER_RANK = 0, 1
"""Places in the group of two that the ranks of a pair of servers have."""
_SHORTEST_S = 1e-3


class Sister:
    """A rank that is passed on what arrives; one that fails is given up, and costs no more."""

    def __init__(self, name: str, group: Any) -> None:
        self.name = name
        self.error = ""
        """Why nothing more is passed on; empty while all is well."""
        self._group = group
        self._patience = datetime.timedelta(seconds=_SHORTEST_S)
        self._under_way: collections.deque[tuple[int, Tensor, Any]] = collections.deque()

    def begin(self, *, patience_s: float) -> None:
        """Begin a transfer, in which the sister may be waited for that long for each message."""
        self._patience = datetime.timedelta(seconds=max(patience_s, _SHORTEST_S))

    def send(self, arrived: Tensor, number: int) -> None:
        """Pass a message on; its tensor must stay as it is until it is settled."""
        if self.error:
            return
        with self._given_up_if_it_fails(number):
            work = self._group.send([arrived], SISTER_RANK, number)
            self._under_way.append((number, arrived, work))

    def settle(self, number: int) -> None:
        """Wait until the messages up to this number have been taken."""
        while self._under_way and self._under_way[0][0] <= number:
            with self._given_up_if_it_fails(self._under_way[0][0]):
                self._under_way[0][2].wait(self._patience)
                self._under_way.popleft()

    @contextlib.contextmanager
    def _given_up_if_it_fails(self, number: int) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # the sister is gone, or silent
            # As text: an exception would keep its frames, and with them connections open.
            self.error = f"message {number}: {type(error).__name__}: {error}"
            self.leave()

    def leave(self) -> None:
        """End the group, whatever is under way in it: a buffer may then be filled anew."""
        self._under_way.clear()
        group, self._group = self._group, None
        self.error = self.error or "its group has been left"
        if group is not None:
            end_group(group)
