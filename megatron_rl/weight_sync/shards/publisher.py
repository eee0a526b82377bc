"""Publisher of shards, on the learner's rank 0; the other ranks follow its orders.

Servers that have proved shards are updated first, all at once, each in a group of its own: one that
fails breaks nobody else's. Newcomers get whole tensors by broadcast, as do servers for which shards
do not work, and are then admitted.
"""

import contextlib
import math
import time
from collections.abc import Container, Iterator, Mapping
from typing import Literal

from megatron_rl.protocols import DeviceQueue, PublishReport
from megatron_rl.registry import read_policy_state, registered_servers
from megatron_rl.run_dir import RunDir
from megatron_rl.transfers import ServerTransfer, record_transfers
from megatron_rl.weight_sync.broadcast import Broadcaster, time_left
from megatron_rl.weight_sync.bucketing import into_buckets
from megatron_rl.weight_sync.fleet import Attempts, Fleet, announce
from megatron_rl.weight_sync.shards.admission import prove_shards, take_fingerprints
from megatron_rl.weight_sync.shards.links import Link, ShardLinks
from megatron_rl.weight_sync.shards.rank_orders import End, Gather, RankOrders
from megatron_rl.weight_sync.shards.relays import Relays
from megatron_rl.weight_sync.shards.source import ShardSource
from megatron_rl.weight_sync.shards.transfer import transfer_shards

Verify = Literal["always", "admission", "never"]
_CHECKED_EVERY = 16
"""Publications between two whose messages are compared by fingerprint, where not all are."""


class ShardPublisher:
    """Publisher that orders shards sent, and whole tensors broadcast where those do not work."""

    def __init__(
        self,
        run_dir: RunDir,
        source: ShardSource,
        links: ShardLinks,
        relays: Relays | None,
        broadcaster: Broadcaster,
        *,
        device: DeviceQueue,
        timeout_s: float,
        bucket_bytes: int,
        retry_after_s: float,
        verify: Verify,
    ) -> None:
        """Prepare; servers are joined when they are first published to.

        Args:
            run_dir: where servers register and the policy state is published.
            source: the learner's weights.
            links: with servers that take shards.
            relays: between these; None to send to every one.
            broadcaster: of whole tensors.
            device: where weights are computed.
            timeout_s: longest time one publication waits for servers.
            bucket_bytes: whole tensors sent with one request.
            retry_after_s: see Attempts.
            verify: admission: a server proves shards once; always: every message is compared as
                well; never: nothing is.
        """
        self._run_dir = run_dir
        self._source = source
        self._links = links
        self._relays = relays
        self._broadcaster = broadcaster
        self._device = device
        self._timeout_s = timeout_s
        self._bucket_bytes = bucket_bytes
        self._verify = verify
        self._attempts = Attempts(retry_after_s=retry_after_s)
        self._num_publications = 0
        self._transfers: dict[str, ServerTransfer] = {}

    def pending(self) -> bool:
        """Return whether a registered server has not acknowledged the current version."""
        registered = registered_servers(self._run_dir)
        return self._attempts.is_pending(registered, read_policy_state(self._run_dir))

    def publish(self, *, version: int) -> PublishReport:
        """Bring all registered servers to the current weights and name them in the policy state."""
        started_at = time.monotonic()
        self._source.settle()
        self._device.synchronize()
        self._transfers = {}
        servers = self._attempts.may_try(registered_servers(self._run_dir))
        proven, others = {}, {}
        for name, info in servers.items():
            (proven if info.incarnation in self._links.proven else others)[name] = info
        first = Fleet(proven, timeout_s=self._timeout_s)
        second = Fleet(others, timeout_s=self._timeout_s)
        # As of the last publication, also once the first of two fleets is announced.
        up_to_date = self._attempts.up_to_date
        if proven:
            with self._updating(first, up_to_date, version, (first,)) as deadline:
                self._send_shards(first, deadline)
        if others or not proven:
            with self._updating(second, up_to_date, version, (first, second)) as deadline:
                self._send_whole_and_admit(second, deadline)
        self._leave_those_that_are_gone()
        self._links.ranks.tell(End())
        self._num_publications += 1
        members = first.members | second.members
        self._transfers = {n: t for n, t in self._transfers.items() if n in members}
        record_transfers(self._run_dir, version, self._transfers)
        return self._report(time.monotonic() - started_at, first, second)

    def close(self) -> None:
        """Leave the broadcast's group, as far as servers answer."""
        self._broadcaster.leave(timeout_s=self._timeout_s)

    @contextlib.contextmanager
    def _updating(
        self,
        fleet: Fleet,
        up_to_date: Container[tuple[str, str]],
        version: int,
        announced: tuple[Fleet, ...],
    ) -> Iterator[float]:
        """Pause a fleet for new weights; yield the deadline for them."""
        deadline = time.monotonic() + self._timeout_s
        fleet.order(lambda server: server.weight_version(timeout_s=fleet.order_timeout_s))
        with fleet.updating(
            up_to_date=up_to_date,
            version=version,
            announce=lambda: announce(self._run_dir, self._attempts, *announced, version=version),
        ):
            yield deadline

    def _send_shards(self, fleet: Fleet, deadline: float) -> None:
        """Update servers that have proved shards."""
        fleet.order(lambda server: server.begin_update(timeout_s=fleet.order_timeout_s))
        links = {n: self._links.proven[s.info.incarnation] for n, s in fleet.members.items()}
        whole = frozenset().union(*(link.whole for link in links.values()))
        if whole:
            with fleet.part(name for name, link in links.items() if link.whole) as part:
                self._broadcast(whole, part, deadline)
        is_due = self._verify == "admission" and self._num_publications % _CHECKED_EVERY == 0
        with_fingerprints = is_due or self._verify == "always"
        if self._relays is None:
            self._transfers |= transfer_shards(
                fleet, self._links, links, deadline, with_fingerprints=with_fingerprints
            )
        else:
            self._transfers |= self._relays.transfer(
                fleet, links, deadline, with_fingerprints=with_fingerprints
            )
        fleet.order(lambda server: server.end_update(timeout_s=time_left(deadline)))
        self._links.leave([s.info.incarnation for s in fleet.dropped.values()])

    def _send_whole_and_admit(self, fleet: Fleet, deadline: float) -> None:
        """Update servers by whole tensors; admit to shards those that prove them now."""
        if not fleet.members:
            return
        fleet.order(lambda server: server.begin_update(timeout_s=fleet.order_timeout_s))
        links = self._links.join(fleet, deadline)
        before = {}
        if self._verify != "never":
            before = take_fingerprints(fleet, self._links, links, deadline)
        num_bytes = self._broadcast(None, fleet, deadline)
        # A server that does not answer leaves half of the time for the proof of the others.
        fleet.order(lambda server: server.end_update(timeout_s=time_left(deadline) / 2))
        if links and self._verify != "never":
            with fleet.part(name for name in links if name in fleet.members) as part:
                prove_shards(part, self._links, links, before, deadline)
        self._admit(fleet, links)
        for name, server in fleet.members.items():
            self._transfers[name] = ServerTransfer(
                transport="broadcast",
                rank_bytes=num_bytes,
                seconds=0.0,
                reason=self._links.why_whole(server),
            )

    def _admit(self, fleet: Fleet, links: Mapping[str, Link]) -> None:
        """Admit linked servers to shards, but those that failed or were refused; mend these."""
        left, refused = [], []
        for name in links:
            if name not in fleet.members:
                left.append(fleet.dropped[name].info.incarnation)
            elif (incarnation := fleet.members[name].info.incarnation) in self._links.refused:
                left.append(incarnation)
                refused.append(name)
            else:
                self._links.admit(fleet.members[name], links[name])
        self._links.leave(left)
        if refused:
            deadline = time.monotonic() + self._timeout_s
            with fleet.part(refused) as part:
                part.order(lambda server: server.begin_update(timeout_s=part.order_timeout_s))
                self._broadcast(None, part, deadline)
                part.order(lambda server: server.end_update(timeout_s=time_left(deadline)))

    def _broadcast(self, names: frozenset[str] | None, fleet: Fleet, deadline: float) -> int:
        """Send whole tensors, all or some of them; return their bytes."""
        self._links.ranks.tell(Gather(names=names))
        buckets = into_buckets(self._source.whole(names), max_bytes=self._bucket_bytes)
        first = next(buckets, None)
        self._device.synchronize()
        self._broadcaster.assemble(fleet, deadline)
        return self._broadcaster.send_all(first, buckets, fleet, deadline)

    def _leave_those_that_are_gone(self) -> None:
        servers = registered_servers(self._run_dir).values()
        incarnations = {info.incarnation for info in servers}
        self._links.forget_all_but(incarnations)
        if self._relays is not None:
            self._relays.forget_all_but(incarnations)

    def _report(self, seconds: float, *fleets: Fleet) -> PublishReport:
        dtypes, transfers = self._source.dtypes, self._transfers.values()
        return PublishReport(
            seconds=seconds,
            pause_s=max(fleet.pause_s for fleet in fleets),
            num_bytes=sum(
                math.prod(shape) * dtypes[name].itemsize
                for name, shape in self._source.shapes.items()
            ),
            num_servers=sum(len(fleet.members) for fleet in fleets),
            num_sharded=sum(transfer.transport == "shards" for transfer in transfers),
            received_bytes=max((transfer.rank_bytes for transfer in transfers), default=0),
        )


class ShardFollower:
    """Part of every other learner rank in a publication."""

    def __init__(self, source: ShardSource, ranks: RankOrders) -> None:
        self._source = source
        self._ranks = ranks

    def pending(self) -> bool:
        """Return False: rank 0 knows which servers wait."""
        return False

    def publish(self, *, version: int) -> None:
        """Do as rank 0 orders until the publication is over."""
        self._source.settle()
        while not isinstance(order := self._ranks.next_order(), End):
            if isinstance(order, Gather):
                for _ in self._source.whole(order.names):
                    pass

    def close(self) -> None:
        """Do nothing: groups end with the process."""
