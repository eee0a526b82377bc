"""Relays between servers: sisters pass shards on in chains, so that the learner sends to few.

A relay that breaks costs its server nothing but time: in the same publication it is sent shards by
the learner, as are all behind it in the chain, through the groups in which they proved shards.
"""

import logging
import time
import uuid
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

from megatron_rl.conversion.resharding import passed_on
from megatron_rl.errors import WeightSyncError
from megatron_rl.transfers import ServerTransfer
from megatron_rl.weight_sync.admin import ServerRefusedError
from megatron_rl.weight_sync.broadcast import time_left
from megatron_rl.weight_sync.fleet import Fleet, answers_of_each
from megatron_rl.weight_sync.shards.links import Link, PeerAbsentError, ShardLinks
from megatron_rl.weight_sync.shards.routes import feeders, places_in_chain
from megatron_rl.weight_sync.shards.transfer import (
    ChangedError,
    Route,
    Transferred,
    attempt,
    transfer_shards,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Relay:
    """One server passes shards on to another."""

    group: str
    """Name of the pair's groups, one for each rank."""
    feeder: str
    head: str
    """First server of the chain: its messages are passed on."""


@dataclass(frozen=True, slots=True)
class _Groups:
    """Names of the pairs that a server is in, empty for none."""

    feeder: str = ""
    sister: str = ""


_UNKNOWN = _Groups("?", "?")


class Relays:
    """Relays between servers that have proved shards, on rank 0."""

    def __init__(self, channel: ShardLinks) -> None:
        self._channel = channel
        self._alone: set[str] = set()
        """Servers that neither pass on nor are passed to, by incarnation: it did not work."""
        self._pairs: dict[tuple[str, str, str], str] = {}
        """Name of a pair that is open, by the links of feeder, sister and head."""
        self._told: dict[str, _Groups] = {}
        """What a server knows, by its link; _UNKNOWN where an order may not have been followed."""
        self._passed_on: dict[str, list[str]] = {}
        """Digests of what sisters are told, by the link of their chain's head."""

    def transfer(
        self,
        fleet: Fleet,
        links: Mapping[str, Link],
        deadline: float,
        *,
        with_fingerprints: bool,
    ) -> dict[str, ServerTransfer]:
        """Send shards to some servers and have them passed on to the others; see transfer_shards.

        The first transfer of a relay is compared message by message.
        """
        known = set(self._pairs.values())
        relays = self._assemble(fleet, links, deadline)
        if not relays:
            return transfer_shards(
                fleet, self._channel, links, deadline, with_fingerprints=with_fingerprints
            )
        is_new = any(relay.group not in known for relay in relays.values())
        first = attempt(
            fleet,
            self._channel,
            self._routes(fleet, links, relays),
            time.monotonic() + time_left(deadline) / 2,
            with_fingerprints=with_fingerprints or is_new,
        )
        again = [name for name in relays if _is_well(first.errors.get(name))]
        self._note(fleet, links, relays, first)
        fleet.drop({name: e for name, e in first.errors.items() if name not in again})
        rest = {name: links[name] for name in again}
        return first.transfers | transfer_shards(
            fleet, self._channel, rest, deadline, with_fingerprints=True
        )

    def forget_all_but(self, incarnations: Set[str]) -> None:
        """Forget servers that are gone, and pairs of which a link has been left."""
        groups = {link.group for link in self._channel.proven.values()}
        self._alone &= incarnations
        self._pairs = {key: name for key, name in self._pairs.items() if groups.issuperset(key)}
        self._told = {group: told for group, told in self._told.items() if group in groups}
        self._passed_on = {k: found for k, found in self._passed_on.items() if k in groups}

    def _assemble(
        self, fleet: Fleet, links: Mapping[str, Link], deadline: float
    ) -> dict[str, _Relay]:
        """Have servers meet as their routes ask for; return the relays that are open, by sister."""
        links = {name: link for name, link in links.items() if name in fleet.members}
        alone = [n for n in links if fleet.members[n].info.incarnation in self._alone]
        fed_by = feeders({name: link.load for name, link in links.items()}, alone=alone)
        relays = {}
        for name, feeder in fed_by.items():
            head = feeder
            while head in fed_by:
                head = fed_by[head]
            key = (links[feeder].group, links[name].group, links[head].group)
            group = self._pairs.setdefault(key, f"relay_{uuid.uuid4().hex[:12]}")
            relays[name] = _Relay(group=group, feeder=feeder, head=head)
        used = {relay.group for relay in relays.values()}
        self._pairs = {key: name for key, name in self._pairs.items() if name in used}
        failed = self._tell(fleet, links, relays, deadline)
        self._break({relays[name].group for name in _behind(failed, relays)})
        return {name: r for name, r in relays.items() if r.group in self._pairs.values()}

    def _tell(
        self,
        fleet: Fleet,
        links: Mapping[str, Link],
        relays: Mapping[str, _Relay],
        deadline: float,
    ) -> set[str]:
        """Tell servers which pairs they are in, where that is new; return those that fail."""
        groups = {name: _Groups() for name in links}
        for name, relay in relays.items():
            groups[name] = _Groups(relay.group, groups[name].sister)
            groups[relay.feeder] = _Groups(groups[relay.feeder].feeder, relay.group)
        new = {
            name: fleet.members[name]
            for name, link in links.items()
            if self._told.get(link.group, _Groups()) != groups[name]
        }
        timeout_s = time_left(deadline) / 4
        for name in new:
            self._told[links[name].group] = _UNKNOWN
        answers, errors = answers_of_each(
            new,
            lambda server: self._channel.have_meet(
                server,
                feeder=groups[server.info.name].feeder,
                sister=groups[server.info.name].sister,
                digests=self._digests(links, relays.get(server.info.name)),
                timeout_s=timeout_s,
            ),
        )
        self._told |= {links[name].group: groups[name] for name in answers}
        for name, error in errors.items():
            if isinstance(error, ServerRefusedError) and not isinstance(error, PeerAbsentError):
                self._leave_alone(fleet, name, str(error))
        fleet.drop({n: e for n, e in errors.items() if not isinstance(e, ServerRefusedError)})
        return set(errors)

    def _digests(self, links: Mapping[str, Link], relay: _Relay | None) -> list[str]:
        if relay is None:
            return []
        head = links[relay.head]
        if head.group not in self._passed_on:
            texts = map(passed_on, head.plan.texts)
            self._passed_on[head.group] = [self._channel.orders.keep(text) for text in texts]
        return self._passed_on[head.group]

    def _routes(
        self, fleet: Fleet, links: Mapping[str, Link], relays: Mapping[str, _Relay]
    ) -> dict[str, Route]:
        """Return how each server gets its shards, and passes them on."""
        sisters = {relay.feeder: relay.group for relay in relays.values()}
        places = places_in_chain({name: relay.feeder for name, relay in relays.items()})
        routes = {}
        for name in links.keys() & fleet.members.keys():
            relay = relays.get(name)
            place, length = places.get(name, (0, 2))
            routes[name] = Route(
                head=name if relay is None else relay.head,
                feeder="" if relay is None else relay.feeder,
                group=links[name].group if relay is None else relay.group,
                digests=links[name].digests if relay is None else self._digests(links, relay),
                plan=links[name if relay is None else relay.head].plan,
                sister=sisters.get(name, ""),
                # Less behind in the chain: whoever waits for nothing but its sister waits longer.
                patience=(1 - place / length) / 2,
            )
        return routes

    def _note(
        self,
        fleet: Fleet,
        links: Mapping[str, Link],
        relays: Mapping[str, _Relay],
        done: Transferred,
    ) -> None:
        """Close relays that broke; those of which the feeder is well are not tried again."""
        broken = {name for name in relays if name in done.errors}
        broken |= {n for n, r in relays.items() if done.not_passed_on.get(r.feeder)}
        for name in broken:
            feeder = relays[name].feeder
            if feeder not in done.errors:
                why = done.errors.get(name) or done.not_passed_on[feeder]
                self._leave_alone(fleet, name, f"{feeder} did not pass shards on: {why}")
        self._break({relays[name].group for name in broken})
        for name in broken:
            for one in (name, relays[name].feeder):
                self._told[links[one].group] = _UNKNOWN

    def _break(self, groups: set[str]) -> None:
        self._pairs = {key: name for key, name in self._pairs.items() if name not in groups}

    def _leave_alone(self, fleet: Fleet, name: str, why: str) -> None:
        self._alone.add((fleet.members.get(name) or fleet.dropped[name]).info.incarnation)
        logger.warning("server %s is sent shards by the learner from now on: %s", name, why)


def _is_well(error: WeightSyncError | None) -> bool:
    """Return whether a server has failed to get its shards, but answers."""
    return isinstance(error, ServerRefusedError | ChangedError)


def _behind(failed: set[str], relays: Mapping[str, _Relay]) -> Iterator[str]:
    """Yield the sisters whose chain goes through a server that failed, and such servers' own."""
    for name in relays:
        place = name
        while place in relays and place not in failed:
            place = relays[place].feeder
        if place in failed:
            yield name
