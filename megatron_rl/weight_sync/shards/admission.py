"""Admission of a server: shards give bit for bit the parameters that SGLang's own path gives.

Once for each incarnation of a server: its loaders are recorded, whole tensors are sent and loaded
as ever, parameters are poisoned wherever a shard will arrive, shards are sent, and the fingerprints
of all parameters on all ranks are compared. Whatever this release of SGLang does to its weights, a
server that serves by shards has shown that it may.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megatron_rl.weight_sync.broadcast import time_left
from megatron_rl.weight_sync.fleet import Fleet
from megatron_rl.weight_sync.shards.links import Link, ShardLinks
from megatron_rl.weight_sync.shards.loader_orders import Answer
from megatron_rl.weight_sync.shards.transfer import transfer_shards

_MOST_NAMES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprints:
    """Fingerprints of one server's parameters, by rank and name."""

    whole: Sequence[Mapping[str, int]]
    rest: Sequence[Mapping[str, int]]
    """Of what no shard reaches, the others as zeros."""


def take_fingerprints(
    fleet: Fleet, channel: ShardLinks, links: Mapping[str, Link], deadline: float
) -> dict[str, Fingerprints]:
    """Return fingerprints of the linked members' parameters, by name of the server."""
    asked = {name: fleet.members[name] for name in links if name in fleet.members}
    answers = channel.ask(fleet, asked, "fingerprints", {}, deadline)
    return {name: _read(found) for name, found in answers.items()}


def prove_shards(
    fleet: Fleet,
    channel: ShardLinks,
    links: Mapping[str, Link],
    before: Mapping[str, Fingerprints],
    deadline: float,
) -> None:
    """Compare shards with the whole tensors that members have; refuse those that differ.

    Refused servers have parameters of no use, and are to be sent whole tensors again.

    Args:
        fleet: servers, all of which have the current weights by whole tensors.
        channel: to their loaders.
        links: of the servers to prove, by name.
        before: of the parameters before those whole tensors.
        deadline: of time.monotonic.
    """
    links = {n: k for n, k in links.items() if n in before and n in fleet.members}
    fleet.order(lambda server: server.begin_update(timeout_s=fleet.order_timeout_s))
    stock = take_fingerprints(fleet, channel, links, deadline)
    poisoned = {name: fleet.members[name] for name in stock if name in fleet.members}
    poisoned_links = {
        name: links[name] for name in channel.ask(fleet, poisoned, "poison", {}, deadline)
    }
    transfer_shards(fleet, channel, poisoned_links, deadline, with_fingerprints=True)
    shards = take_fingerprints(fleet, channel, poisoned_links, deadline)
    fleet.order(lambda server: server.end_update(timeout_s=time_left(deadline)))
    for name, server in fleet.members.items():
        if name not in shards:
            continue  # it refused an order, and with it shards
        found = differences(
            before[name], stock[name], shards[name], has_whole_tensors=bool(links[name].whole)
        )
        if found:
            channel.refuse(server, "; ".join(found))


def differences(
    before: Fingerprints, stock: Fingerprints, shards: Fingerprints, *, has_whole_tensors: bool
) -> list[str]:
    """Return what speaks against shards, a phrase each; nothing where they give the same.

    Args:
        before: of the parameters before any of the weights.
        stock: after whole tensors were loaded.
        shards: after poison and shards.
        has_whole_tensors: some tensors are sent whole to this server at every update, and may
            change what no shard reaches.
    """
    found = []
    changed = _differing(stock.whole, shards.whole)
    if changed:
        found.append(f"shards give other values in {_named(changed)}")
    if not has_whole_tensors:
        cleared = [{name: found for name, found in rank.items() if found} for rank in stock.rest]
        unreached = [
            name
            for name in _differing(before.rest, stock.rest)
            # Padding that loaders set to zero, of which 0 is said, stays so.
            if any(name in rank for rank in cleared)
        ]
        if unreached:
            named = _named(unreached)
            found.append(f"the server's loaders change what no shard reaches in {named}")
    return found


def _read(answers: Sequence[Answer]) -> Fingerprints:
    return Fingerprints(
        whole=[{n: int(f[0]) for n, f in a["fingerprints"].items()} for a in answers],
        rest=[{n: int(f[1]) for n, f in a["fingerprints"].items()} for a in answers],
    )


def _differing(one: Sequence[Mapping[str, int]], other: Sequence[Mapping[str, int]]) -> list[str]:
    names: set[str] = set()
    for mine, its in zip(one, other, strict=True):
        names |= {name for name in mine.keys() | its.keys() if mine.get(name) != its.get(name)}
    return sorted(names)


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMES])
    more = len(names) - _MOST_NAMES
    return f"{shown} and {more} more" if more > 0 else shown
