"""Transfer of shards to servers that are linked: sent by all learner ranks at once, and checked."""

import contextlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from megatron_rl.errors import WeightSyncError
from megatron_rl.transfers import ServerTransfer
from megatron_rl.weight_sync.admin import ServerAdmin, ServerRefusedError
from megatron_rl.weight_sync.broadcast import time_left
from megatron_rl.weight_sync.fleet import Fleet, errors_of
from megatron_rl.weight_sync.shards.links import Link, ShardLinks
from megatron_rl.weight_sync.shards.loader_orders import Answer
from megatron_rl.weight_sync.shards.rank import WINDOW, Sent, ServerPlan
from megatron_rl.weight_sync.shards.rank_orders import Send


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """How one server gets its shards, and whether it passes them on."""

    head: str
    """Server whose shards the learner sends: this one, or the first of its chain."""
    feeder: str
    """Server that passes them on to this one; empty where the learner sends them."""
    group: str
    """That they come through."""
    digests: Sequence[str]
    """Of what each server rank was told."""
    plan: ServerPlan
    """Of the head."""
    sister: str = ""
    """Name of the pair through which it passes shards on; empty where it does not."""
    patience: float = 0.0
    """Share of the time of a transfer for which it waits for its sister."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Transferred:
    """What became of a transfer, by server."""

    transfers: Mapping[str, ServerTransfer]
    """Of servers that have all their shards."""
    errors: Mapping[str, WeightSyncError]
    """Of the others."""
    not_passed_on: Mapping[str, str]
    """Why a server stopped passing on."""


class ChangedError(WeightSyncError):
    """A server that is well has other shards, or fewer, than were sent."""


def transfer_shards(
    fleet: Fleet,
    channel: ShardLinks,
    links: Mapping[str, Link],
    deadline: float,
    *,
    with_fingerprints: bool,
) -> dict[str, ServerTransfer]:
    """Have learner ranks send shards to all servers, which receive them; drop those that fail.

    Args:
        fleet: the servers.
        channel: to their loaders and to the learner's ranks.
        links: by server name; others of the fleet are left alone.
        deadline: of time.monotonic.
        with_fingerprints: compare what was sent with what arrived, message by message.
    """
    routes = {
        name: Route(head=name, feeder="", group=k.group, digests=k.digests, plan=k.plan)
        for name, k in links.items()
        if name in fleet.members
    }
    done = attempt(fleet, channel, routes, deadline, with_fingerprints=with_fingerprints)
    fleet.drop(done.errors)
    return dict(done.transfers)


def attempt(
    fleet: Fleet,
    channel: ShardLinks,
    routes: Mapping[str, Route],
    deadline: float,
    *,
    with_fingerprints: bool,
) -> Transferred:
    """Have shards sent, received and passed on along routes; the fleet keeps those that fail.

    Arguments as of transfer_shards.
    """
    if not routes:
        return Transferred(transfers={}, errors={}, not_passed_on={})
    timeout_s = time_left(deadline) / 3
    heads = [fleet.members[name].info.incarnation for name, r in routes.items() if not r.feeder]
    with ThreadPoolExecutor(len(routes), thread_name_prefix="weight-sync") as pool:
        answers = {
            name: pool.submit(
                _have_receive,
                channel,
                fleet.members[name],
                route,
                {
                    "group": route.group,
                    "messages": route.digests,
                    "window": WINDOW,
                    "timeout_s": timeout_s,
                    "with_fingerprints": with_fingerprints,
                    "sister": route.sister,
                    "patience_s": route.patience * timeout_s,
                },
                timeout_s=2 * timeout_s,
            )
            for name, route in routes.items()
        }
        order = Send(
            incarnations=tuple(heads), with_fingerprints=with_fingerprints, timeout_s=timeout_s
        )
        outcomes = channel.ranks.run(order)
    errors = errors_of(answers)
    received = {name: answers[name].result() for name in routes if name not in errors}
    for name, answer in received.items():
        head = fleet.members[routes[name].head].info.incarnation
        sent = [o[head] for o in outcomes if head in o]
        error = _disagreement(routes[name], sent, answer, with_fingerprints)
        if error is not None:
            errors[name] = ChangedError(f"server {name}: {error}")
    return Transferred(
        transfers={n: _transfer_of(routes[n], a) for n, a in received.items() if n not in errors},
        errors=errors,
        not_passed_on={
            name: reasons[0]
            for name, answer in received.items()
            if (reasons := [a["not_passed_on"] for a in answer if a["not_passed_on"]])
        },
    )


def _have_receive(
    channel: ShardLinks,
    server: ServerAdmin,
    route: Route,
    fields: Mapping[str, Any],
    *,
    timeout_s: float,
) -> list[Answer]:
    """Have a server receive; one that refuses leaves its groups, where others wait for it.

    That with the learner it keeps where a feeder was to send: the learner does so then.
    """
    try:
        return channel.orders.give(server, "receive", fields, timeout_s=timeout_s)
    except ServerRefusedError:
        with contextlib.suppress(WeightSyncError):
            if route.feeder:
                channel.have_meet(server, timeout_s=timeout_s / 2)
            else:
                channel.orders.give(server, "leave", {}, timeout_s=timeout_s / 2)
        raise


def _disagreement(
    route: Route, sent: Sequence[Sent], received: Sequence[Answer], with_fingerprints: bool
) -> str | None:
    """Return what a learner rank could not send, or a server rank received otherwise.

    What a feeder could not pass on, its sister has not received.
    """
    plan = route.plan
    for outcome in sent if not route.feeder else ():
        if outcome.error is not None:
            return f"shards could not be sent: {outcome.error}"
    if not route.feeder and len(sent) != len(plan.senders):
        return f"{len(sent)} of {len(plan.senders)} learner ranks sent to it"
    for rank, answer in enumerate(received):
        if answer["num_bytes"] != plan.num_bytes(rank):
            return f"rank {rank} received {answer['num_bytes']} bytes of {plan.num_bytes(rank)}"
    if not with_fingerprints:
        return None
    ours = {place: number for outcome in sent for place, number in outcome.fingerprints.items()}
    for rank, answer in enumerate(received):
        for number, found in enumerate(answer["fingerprints"]):
            if ours.get((rank, number)) != found:
                return f"message {number} of {len(answer['fingerprints'])} arrived changed"
    return None


def _transfer_of(route: Route, received: Sequence[Answer]) -> ServerTransfer:
    plan = route.plan
    return ServerTransfer(
        transport="shards",
        rank_bytes=max(plan.num_bytes(rank) for rank in range(len(plan.messages))),
        seconds=max(answer["seconds"] for answer in received),
        reason="",
        feeder=route.feeder,
    )
