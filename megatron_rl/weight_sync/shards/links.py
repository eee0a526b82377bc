"""Links of the learner with servers: recorded, planned, joined, and left when one fails.

Every link has a process group of its own, so that a server that fails breaks its own alone.
"""

import json
import logging
import uuid
from collections.abc import Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from megatron_rl.conversion.block_fp8.tensors import scale_name
from megatron_rl.conversion.resharding import DType, ServerMap
from megatron_rl.errors import WeightSyncError
from megatron_rl.serving_plugin.shard_receiver.sister import FEEDER_RANK, SISTER_RANK
from megatron_rl.weight_sync.admin import ServerAdmin, ServerRefusedError
from megatron_rl.weight_sync.broadcast import time_left
from megatron_rl.weight_sync.fleet import Fleet, answers_of_each, errors_of
from megatron_rl.weight_sync.shards.loader_orders import Answer, LoaderOrders
from megatron_rl.weight_sync.shards.rank import Plans, ServerPlan
from megatron_rl.weight_sync.shards.rank_orders import Join, JoinServer, Leave, RankOrders
from megatron_rl.weight_sync.shards.routes import Load
from megatron_rl.weight_sync.shards.source import ShardSource

logger = logging.getLogger(__name__)
_MOST_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """A server that is, or may be, sent shards."""

    group: str
    maps: tuple[str, ...]
    """Digest of the map of each server rank."""
    plan: ServerPlan
    digests: Sequence[str]
    """Of what each server rank was told."""
    whole: frozenset[str]
    """Tensors that it is sent whole."""
    load: Load
    """What it costs when the learner sends to it."""


class PeerAbsentError(ServerRefusedError):
    """A server that another one was to meet does not come."""


class ShardLinks:
    """Links with all servers, on rank 0."""

    def __init__(
        self,
        source: ShardSource,
        plans: Plans,
        ranks: RankOrders,
        orders: LoaderOrders,
        *,
        backend: Literal["gloo", "nccl"],
    ) -> None:
        """Begin without any.

        Args:
            source: the learner's weights.
            plans: of the same learner.
            ranks: channel to all learner ranks.
            orders: channel to the loaders inside servers.
            backend: of the groups.
        """
        self.ranks = ranks
        self.orders = orders
        self.proven: dict[str, Link] = {}
        """Servers that have proved shards, by incarnation."""
        self.refused: dict[str, str] = {}
        """Why a server is sent whole tensors only, by incarnation."""
        self._source = source
        self._plans = plans
        self._backend = backend
        self._num_joined = 0

    def join(self, fleet: Fleet, deadline: float) -> dict[str, Link]:
        """Record, plan and join the members that can be sent shards; return their links."""
        able = {
            name: server
            for name, server in fleet.members.items()
            if server.info.takes_shards and server.info.incarnation not in self.refused
        }
        if not able:
            return {}
        tensors = [
            [name, self._source.dtypes[name].name, list(shape)]
            for name, shape in self._source.shapes.items()
        ]
        fields = {"tensors": self.orders.keep(json.dumps(tensors))}
        described = self.ask(fleet, able, "describe", fields, deadline)
        links, joins, errors = {}, {}, {}
        for name, answers in described.items():
            server = fleet.members[name]
            try:
                links[name], joins[name] = self._link(server, answers)
            except ValueError as error:
                self.refuse(server, f"what its loader does cannot be read: {error}")
            except WeightSyncError as error:
                errors[name] = error
        fleet.drop(errors)
        joined = self._join_groups(fleet, links, joins, deadline)
        return {name: links[name] for name in joined}

    def _link(self, server: ServerAdmin, answers: Sequence[Answer]) -> tuple[Link, JoinServer]:
        texts = [self.orders.content(answer["copies"]) for answer in answers]
        maps = tuple(map(ServerMap.from_json, texts))
        _check_types(server, maps, self._source.dtypes)
        held = frozenset().union(*(server_map.tensors() for server_map in maps))
        seen = held.union(*(answer["unmapped"] for answer in answers))
        _check_nothing_is_left_out(server, seen, self._source)
        reasons = self._plans.unmappable(maps)
        for answer in answers:
            reasons |= answer["unmapped"]
        if reasons:
            shown = "; ".join(f"{n}: {why}" for n, why in list(reasons.items())[:_MOST_SHOWN])
            logger.warning(
                "server %s is sent %d tensors whole: %s", server.info.name, len(reasons), shown
            )
        join = JoinServer(
            incarnation=server.info.incarnation,
            group=f"shards_{uuid.uuid4().hex[:12]}",
            maps=tuple(answer["copies"] for answer in answers),
            replica=self._num_joined,
            without=frozenset(reasons),
        )
        self._num_joined += 1
        plan = self._plans.plan(maps, join.replica, join.without)
        digests = [self.orders.keep(text) for text in plan.texts]
        link = Link(
            group=join.group,
            maps=join.maps,
            plan=plan,
            digests=digests,
            whole=join.without,
            load=Load(
                kind=(join.maps, join.without),
                sent=plan.bytes_by_sender(),
                received=max(plan.num_bytes(rank) for rank in range(len(plan.messages))),
            ),
        )
        return link, join

    def _join_groups(
        self,
        fleet: Fleet,
        links: Mapping[str, Link],
        joins: Mapping[str, JoinServer],
        deadline: float,
    ) -> list[str]:
        """Have servers and learner ranks meet; return the servers that all have met.

        The others' groups are left, also by those that have met in them.
        """
        # A server that does not answer leaves half of the time to the others.
        timeout_s = time_left(deadline) / 4
        with ThreadPoolExecutor(max(1, len(links)), thread_name_prefix="weight-sync") as pool:
            answers = {
                name: pool.submit(
                    self._have_join,
                    fleet.members[name],
                    {
                        "group": link.group,
                        "messages": link.digests,
                        "num_sources": len(link.plan.senders),
                        "backend": self._backend,
                        "timeout_s": timeout_s,
                    },
                    timeout_s=2 * timeout_s,
                )
                for name, link in links.items()
            }
            outcomes = self.ranks.run(Join(servers=tuple(joins.values()), timeout_s=timeout_s))
        errors = errors_of(answers)
        for name, join in joins.items():
            ours = [o[join.incarnation] for o in outcomes if o.get(join.incarnation) is not None]
            if ours and name not in errors:
                errors[name] = ServerRefusedError(ours[0])
        self._give_up(fleet, errors)
        self.leave([joins[name].incarnation for name in errors])
        return [name for name in links if name not in errors]

    def _have_join(
        self, server: ServerAdmin, fields: Mapping[str, Any], *, timeout_s: float
    ) -> list[Answer]:
        """Have a server join; where it does not, call it off for the learner ranks."""
        try:
            return self.orders.give(server, "join", fields, timeout_s=timeout_s)
        except WeightSyncError:
            self.orders.call_off(fields["group"], server)
            raise

    def have_meet(
        self,
        server: ServerAdmin,
        *,
        feeder: str = "",
        sister: str = "",
        digests: Sequence[str] = (),
        timeout_s: float,
    ) -> None:
        """Have a server meet those of its pairs; where it does not, call it off for these.

        It leaves any other pair, and all of them where no names are given.

        Raises:
            PeerAbsentError: the server is well, but one that it was to meet has not come.
            WeightSyncError: see LoaderOrders.give.
        """
        fields = {
            "feeder": feeder,
            "sister": sister,
            "messages": list(digests) or [""] * server.info.tp,
            "backend": self._backend,
            # Two meetings, each with a wait for the other and one for the connection.
            "timeout_s": timeout_s / 4,
        }
        try:
            for answer in self.orders.give(server, "relay", fields, timeout_s=1.5 * timeout_s):
                if answer["absent"]:
                    raise PeerAbsentError(f"nobody comes to {answer['absent']}")
        except WeightSyncError:
            for pair, side in ((feeder, SISTER_RANK), (sister, FEEDER_RANK)):
                if pair:
                    self.orders.call_off_pair(pair, server, side)
            raise

    def ask(
        self,
        fleet: Fleet,
        servers: Mapping[str, ServerAdmin],
        op: str,
        fields: Mapping[str, object],
        deadline: float,
    ) -> dict[str, list[Answer]]:
        """Give an order to some members; return the answers of those that carried it out."""
        answers, errors = answers_of_each(
            servers,
            lambda server: self.orders.give(server, op, fields, timeout_s=time_left(deadline) / 2),
        )
        self._give_up(fleet, errors)
        return answers

    def _give_up(self, fleet: Fleet, errors: Mapping[str, WeightSyncError]) -> None:
        """Send whole tensors to servers that refused shards; drop those that did not answer."""
        silent = {}
        for name, error in errors.items():
            if isinstance(error, ServerRefusedError):
                self.refuse(fleet.members[name], str(error))
            else:
                silent[name] = error
        fleet.drop(silent)

    def refuse(self, server: ServerAdmin, reason: str) -> None:
        """Send a server whole tensors only, for as long as it lives."""
        self.refused[server.info.incarnation] = reason
        logger.warning(
            "server %s is sent whole tensors, which is slower, instead of shards: %s",
            server.info.name,
            reason,
        )

    def why_whole(self, server: ServerAdmin) -> str:
        """Return why a server is sent whole tensors; empty where it is only being admitted."""
        if not server.info.takes_shards:
            return "it was started without the loader of shards"
        return self.refused.get(server.info.incarnation, "")

    def admit(self, server: ServerAdmin, link: Link) -> None:
        """Send a server shards from now on."""
        self.proven[server.info.incarnation] = link

    def leave(self, incarnations: Sequence[str]) -> None:
        """Give up the groups of servers that failed, are gone, or do not take shards."""
        if incarnations:
            self.ranks.run(Leave(incarnations=tuple(incarnations)))
        for incarnation in incarnations:
            self.proven.pop(incarnation, None)

    def forget_all_but(self, incarnations: Container[str]) -> None:
        """Give up the groups of servers that are gone, and all else that is known of them."""
        self.leave([known for known in self.proven if known not in incarnations])
        self.refused = {k: why for k, why in self.refused.items() if k in incarnations}


def _check_types(
    server: ServerAdmin, maps: Sequence[ServerMap], dtypes: Mapping[str, DType]
) -> None:
    """Raise WeightSyncError where weights would be cast to FP8, or from it, without their scales.

    SGLang's own loaders do so, and say nothing.
    """
    copies = (copy for server_map in maps for copy in server_map.copies)
    for copy in (copy for copy in copies if copy.tensor in dtypes):
        sent = dtypes[copy.tensor].name
        if sent != copy.to_dtype and "float8" in sent + copy.to_dtype:
            raise WeightSyncError(
                f"server {server.info.name} holds {copy.tensor} in {copy.to_dtype}, and is sent "
                f"{sent}: it was started with another generators.quantization than this learner; "
                "start it again"
            )


def _check_nothing_is_left_out(
    server: ServerAdmin, seen: frozenset[str], source: ShardSource
) -> None:
    """Raise WeightSyncError where the loaders of all ranks ignore values or scales in block FP8."""
    needed = source.quantised | frozenset(map(scale_name, source.quantised))
    ignored = sorted(needed - seen)
    if ignored:
        raise WeightSyncError(
            f"server {server.info.name} ignores {ignored[0]} ({len(ignored)} tensors): its SGLang "
            "has no block FP8 for this model"
        )
