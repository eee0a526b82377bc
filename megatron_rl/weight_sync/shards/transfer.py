"""Transfer of shards to servers that are linked: sent by all learner ranks at once, and checked."""

import contextlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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


def transfer_shards(
    fleet: Fleet,
    channel: ShardLinks,
    links: Mapping[str, Link],
    deadline: float,
    *,
    with_fingerprints: bool,
) -> dict[str, ServerTransfer]:
    """Have learner ranks send shards and servers receive them; drop the servers that fail.

    Args:
        fleet: the servers.
        channel: to their loaders and to the learner's ranks.
        links: by server name; others of the fleet are left alone.
        deadline: of time.monotonic.
        with_fingerprints: compare what was sent with what arrived, message by message.
    """
    names = [name for name in links if name in fleet.members]
    if not names:
        return {}
    timeout_s = time_left(deadline) / 3
    with ThreadPoolExecutor(len(names), thread_name_prefix="weight-sync") as pool:
        answers = {
            name: pool.submit(
                _have_receive,
                channel,
                fleet.members[name],
                {
                    "group": links[name].group,
                    "messages": links[name].digests,
                    "window": WINDOW,
                    "timeout_s": timeout_s,
                    "with_fingerprints": with_fingerprints,
                },
                timeout_s=2 * timeout_s,
            )
            for name in names
        }
        order = Send(
            incarnations=tuple(fleet.members[name].info.incarnation for name in names),
            with_fingerprints=with_fingerprints,
            timeout_s=timeout_s,
        )
        outcomes = channel.ranks.run(order)
    errors = errors_of(answers)
    transfers = {}
    for name in names:
        incarnation = fleet.members[name].info.incarnation
        sent = [o[incarnation] for o in outcomes if incarnation in o]
        if name not in errors:
            received = answers[name].result()
            error = _disagreement(links[name].plan, sent, received, with_fingerprints)
            if error is not None:
                errors[name] = WeightSyncError(f"server {name}: {error}")
            transfers[name] = _transfer_of(links[name].plan, received)
    fleet.drop(errors)
    return {name: found for name, found in transfers.items() if name in fleet.members}


def _have_receive(
    channel: ShardLinks, server: ServerAdmin, fields: Mapping[str, Any], *, timeout_s: float
) -> list[Answer]:
    """Have a server receive; one that refuses leaves its group, where senders wait for it."""
    try:
        return channel.orders.give(server, "receive", fields, timeout_s=timeout_s)
    except ServerRefusedError:
        with contextlib.suppress(WeightSyncError):
            channel.orders.give(server, "leave", {}, timeout_s=timeout_s / 2)
        raise


def _disagreement(
    plan: ServerPlan, sent: Sequence[Sent], received: Sequence[Answer], with_fingerprints: bool
) -> str | None:
    """Return what a learner rank could not send, or a server rank received otherwise."""
    for outcome in sent:
        if outcome.error is not None:
            return f"shards could not be sent: {outcome.error}"
    if len(sent) != len(plan.senders):
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


def _transfer_of(plan: ServerPlan, received: Sequence[Answer]) -> ServerTransfer:
    return ServerTransfer(
        transport="shards",
        rank_bytes=max(plan.num_bytes(rank) for rank in range(len(plan.messages))),
        seconds=max(answer["seconds"] for answer in received),
        reason="",
    )
