"""Switch from shards to each server to shards that servers pass on: from how many servers it pays.

A learner rank sends its part of the model to every server that draws from its copy; a server rank
receives one shard, and in a relay sends one. Without latencies a relay therefore pays when

    servers per copy > shard of a server rank / part that a learner rank gives one server

and not before, since until then it is the servers' links that take longest.
"""

from collections.abc import Callable
from dataclasses import dataclass

from .cluster import Cluster
from .shares import Shares
from .transports import Fleet, Outcome, spread

_GAIN = 0.01
"""Share of the time that a switch has to save."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Switch:
    """Where two transports cross."""

    num_copies: int
    shard_bytes: float
    """Into the busiest server rank."""
    part_bytes: float
    """Out of the busiest learner rank, for one server."""
    num_servers: int | None
    """Fewest servers with which the other transport is faster; None up to the limit."""

    @property
    def bound(self) -> float:
        """Servers per copy above which a relay pays, without latencies."""
        return self.shard_bytes / self.part_bytes


def find_switch(
    shares: Shares,
    transport: Callable[[Shares, Fleet], Outcome],
    *,
    num_ranks: int,
    cluster: Cluster,
    most_servers: int,
) -> Switch:
    """Return from how many servers ``transport`` is faster than shards sent to each."""

    def fleet(num_servers: int) -> Fleet:
        return Fleet(
            num_ranks=num_ranks,
            num_servers=num_servers,
            server_ranks=shares.num_server_ranks,
            cluster=cluster,
        )

    one = fleet(1)
    alone = spread(shares, one).traffic
    faster = (
        number
        for number in range(1, most_servers + 1)
        if transport(shares, fleet(number)).seconds
        < (1 - _GAIN) * spread(shares, fleet(number)).seconds
    )
    return Switch(
        num_copies=shares.num_copies(num_ranks),
        shard_bytes=max(alone.bytes_into(gpu) for gpu in one.server_gpus()),
        part_bytes=max(alone.bytes_out(rank) for rank in range(num_ranks)),
        num_servers=next(faster, None),
    )
