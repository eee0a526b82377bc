"""Four transports of new weights from learner ranks to the ranks of all servers.

GPUs are numbered: learner ranks first, then the ranks of each server in turn.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from .cluster import Cluster, Traffic
from .gather import gather
from .shares import BUCKET_BYTES, Sent, Shares

TODAYS_BUCKET_BYTES = 128 << 20
"""Default of ``weights.bucket_mb``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fleet:
    """Learner ranks and servers, and how they are wired."""

    num_ranks: int
    num_servers: int
    server_ranks: int
    cluster: Cluster

    def gpu(self, server: int, rank: int) -> int:
        """Return the GPU of a rank of a server."""
        return self.num_ranks + server * self.server_ranks + rank

    def server_gpus(self) -> range:
        """Return the GPUs of all servers."""
        return range(self.num_ranks, self.num_ranks + self.num_servers * self.server_ranks)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a transport costs."""

    traffic: Traffic
    fill_s: float
    """Until the last of a chain has what the first one got first."""

    @property
    def seconds(self) -> float:
        """Return the time of the busiest link, after the chain has filled."""
        return self.traffic.seconds() + self.fill_s


def whole_broadcast(shares: Shares, fleet: Fleet) -> Outcome:
    """Gather whole tensors on rank 0, which broadcasts them to every server rank.

    A ring over all server ranks. Servers take the next bucket when they have loaded the last one,
    so that the ring fills anew for each. The gather overlaps with the broadcast, on the same links.
    """
    traffic = Traffic(fleet.cluster)
    gather(
        traffic,
        shares.tensors,
        shares.layout,
        num_ranks=fleet.num_ranks,
        batch_bytes=TODAYS_BUCKET_BYTES,
    )
    sizes = shares.tensors.sizes()
    members = [0, *fleet.server_gpus()]
    whole = Sent(num_bytes=sum(sizes), num_messages=len(sizes))
    _ring(traffic, members, whole)
    fill_s = num_buckets(sizes) * _ring_fill_s(fleet.cluster, members)
    return Outcome(traffic=traffic, fill_s=fill_s)


def spread(shares: Shares, fleet: Fleet) -> Outcome:
    """Send every server rank its shard; servers take turns with the copies of the learner."""
    traffic = Traffic(fleet.cluster)
    for server in range(fleet.num_servers):
        _send_shards(traffic, shares, fleet, server, replica=server)
    return Outcome(traffic=traffic, fill_s=0)


def relay(shares: Shares, fleet: Fleet, *, fanout: int) -> Outcome:
    """Send shards to one server for each copy of the learner; it passes them on to its sisters.

    Sisters are neighbours. A rank passes a bucket on as soon as it has it, to ``fanout`` others: a
    chain or a tree.
    """
    traffic = Traffic(fleet.cluster)
    fill_s = 0.0
    for head, sisters in enumerate(sisters_of(fleet, shares.num_copies(fleet.num_ranks))):
        _send_shards(traffic, shares, fleet, sisters[0], replica=head)
        for rank in range(fleet.server_ranks):
            sent = shares.sent_to(rank, replica=head, num_ranks=fleet.num_ranks).values()
            shard = Sent(
                num_bytes=sum(each.num_bytes for each in sent),
                num_messages=sum(each.num_messages for each in sent),
            )
            gpus = [fleet.gpu(server, rank) for server in sisters]
            fill_s = max(fill_s, _relay_rank(traffic, gpus, shard, fanout))
    return Outcome(traffic=traffic, fill_s=fill_s)


def grouped_broadcast(shares: Shares, fleet: Fleet) -> Outcome:
    """Broadcast from each source to a rank of all servers: one ring for every source and rank.

    The broadcasts of a group follow each other closely, so that its ring fills once. Ranks of a
    server draw from copies of the learner in turn.
    """
    traffic = Traffic(fleet.cluster)
    fill_s = 0.0
    for rank in range(fleet.server_ranks):
        sisters = [fleet.gpu(server, rank) for server in range(fleet.num_servers)]
        sent = shares.sent_to(rank, replica=rank, num_ranks=fleet.num_ranks)
        for source, message in sent.items():
            members = [source, *sisters]
            _ring(traffic, members, message)
            fill_s = max(fill_s, _ring_fill_s(fleet.cluster, members))
    return Outcome(traffic=traffic, fill_s=fill_s)


def sisters_of(fleet: Fleet, num_copies: int) -> Iterator[range]:
    """Yield equal runs of servers, one for each copy of the learner, as far as servers go."""
    num_heads = min(fleet.num_servers, num_copies)
    for head in range(num_heads):
        first = head * fleet.num_servers // num_heads
        yield range(first, (head + 1) * fleet.num_servers // num_heads)


def num_buckets(sizes: list[int]) -> int:
    """Return how many buckets tensors fill, in order; one that is larger has its own."""
    count, room = 0, 0
    for size in sizes:
        if not count or size > room:
            count, room = count + 1, TODAYS_BUCKET_BYTES
        room -= size
    return count


def _send_shards(
    traffic: Traffic, shares: Shares, fleet: Fleet, server: int, *, replica: int
) -> None:
    for rank in range(fleet.server_ranks):
        sent = shares.sent_to(rank, replica=replica, num_ranks=fleet.num_ranks)
        for source, message in sent.items():
            traffic.send(source, fleet.gpu(server, rank), message.num_bytes, message.num_messages)


def _ring(traffic: Traffic, members: list[int], sent: Sent) -> None:
    for source, target in itertools.pairwise(members):
        traffic.send(source, target, sent.num_bytes, sent.num_messages)


def _ring_fill_s(cluster: Cluster, members: list[int]) -> float:
    """Return how much later the last member has a byte than the second."""
    return sum(
        cluster.hop_s + cluster.seconds(source, target, cluster.chunk_bytes)
        for source, target in itertools.pairwise(members[1:])
    )


def _relay_rank(traffic: Traffic, gpus: list[int], shard: Sent, fanout: int) -> float:
    """Note how a rank's shard reaches its sisters; return when the last has the first bucket."""
    cluster = traffic.cluster
    bucket = min(BUCKET_BYTES, shard.num_bytes)
    has_first_s = [0.0]
    for place in range(1, len(gpus)):
        parent, turn = divmod(place - 1, fanout)
        traffic.send(gpus[parent], gpus[place], shard.num_bytes, shard.num_messages)
        hop_s = cluster.message_s + cluster.seconds(gpus[parent], gpus[place], bucket)
        has_first_s.append(has_first_s[parent] + (turn + 1) * hop_s)
    return max(has_first_s)
