"""Orders of rank 0 to all learner ranks, which carry them out together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch.distributed as dist


@dataclass(frozen=True, kw_only=True, slots=True)
class Gather:
    """Gather whole tensors, all or some of them, for rank 0 to send."""

    names: frozenset[str] | None
    """Hugging Face names; None for all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinServer:
    """Join the group of one server."""

    incarnation: str
    group: str
    """Name of the group."""
    maps: tuple[str, ...]
    """Digest of the map of each server rank."""
    replica: int
    """Which of the ranks that hold the same send to this server."""
    without: frozenset[str]
    """Tensors that the server is sent whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Join:
    """Join the groups of servers."""

    servers: tuple[JoinServer, ...]
    timeout_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Send:
    """Send this rank's shards to servers, by incarnation."""

    incarnations: tuple[str, ...]
    with_fingerprints: bool
    timeout_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Leave:
    """Give up the groups of servers, by incarnation."""

    incarnations: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """The publication is over."""


Order = Gather | Join | Send | Leave | End


class CarriesOut(Protocol):
    """One learner rank's part in what rank 0 orders."""

    def carry_out(self, order: Join | Send | Leave) -> Mapping[str, Any]:
        """Return this rank's outcome for each server, by incarnation."""
        ...


class RankOrders:
    """Channel from rank 0 to the learner's ranks, over gloo; built by all of them together."""

    def __init__(self, part: CarriesOut) -> None:
        self._part = part
        self._group = dist.new_group(backend="gloo")
        self._size = dist.get_world_size()

    def tell(self, order: Order) -> None:
        """Give an order without an answer; on rank 0."""
        if self._size > 1:
            dist.broadcast_object_list([order], src=0, group=self._group)

    def run(self, order: Join | Send | Leave) -> list[Mapping[str, Any]]:
        """Have every rank carry out an order, this one as well; return their outcomes in order."""
        self.tell(order)
        mine = self._part.carry_out(order)
        if self._size == 1:
            return [mine]
        outcomes: list[Any] = [None] * self._size
        dist.gather_object(mine, outcomes, dst=0, group=self._group)
        return outcomes

    def next_order(self) -> Order:
        """Return rank 0's next order, having carried out what needs no more than that."""
        box: list[Any] = [None]
        dist.broadcast_object_list(box, src=0, group=self._group)
        order: Order = box[0]
        if isinstance(order, Join | Send | Leave):
            dist.gather_object(self._part.carry_out(order), None, dst=0, group=self._group)
        return order
