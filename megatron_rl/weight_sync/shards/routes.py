"""Routes of shards to servers: from the learner, or from a sister server that passes them on.

A learner rank sends its part to every server that it sends to; a server rank receives one shard,
and has time to pass one on. So the learner sends to as many servers as keep its busiest rank no
longer than a server rank needs for its own shard, and the others get theirs in chains behind these
(benchmarks/reshard_scale.py has the arithmetic).
"""

import collections
from collections.abc import Container, Hashable, Mapping, Sequence
from dataclasses import dataclass

# Norms and the like are on every rank: without it, half a percent of bytes would double a chain.
_SLACK = 1.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """Bytes that a server costs when the learner sends to it."""

    kind: Hashable
    """Servers of one kind take the same messages."""
    sent: Mapping[int, int]
    """By learner rank."""
    received: int
    """By the busiest rank of the server."""


def feeders(loads: Mapping[str, Load], *, alone: Container[str] = ()) -> dict[str, str]:
    """Return, by server, which one passes shards on to it; servers left out hear of the learner.

    Args:
        loads: of all servers, in the order in which the learner would send to them.
        alone: servers that neither pass on nor are passed to.
    """
    kinds: dict[Hashable, list[str]] = {}
    for name, load in loads.items():
        kinds.setdefault(load.kind, []).append(name)
    sent: collections.Counter[int] = collections.Counter()
    for name, load in loads.items():
        if name in alone:
            sent.update(load.sent)
    found = {}
    for names in kinds.values():
        chained = [name for name in names if name not in alone]
        num_heads = _add_heads([loads[name] for name in chained], sent)
        # Each follows the one that is a chain's length before it.
        found |= dict(zip(chained[num_heads:], chained, strict=False))
    return found


def _add_heads(loads: Sequence[Load], sent: "collections.Counter[int]") -> int:
    """Return how many servers of a kind the learner sends to, and count what it sends them."""
    num_heads = 0
    for load in loads:
        after = sent + collections.Counter(load.sent)
        if num_heads and max(after.values(), default=0) > _SLACK * load.received:
            break
        sent.update(load.sent)
        num_heads += 1
    return num_heads


def places_in_chain(feeders: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Return, by server that passes on, (its place in its chain from 0, servers of the chain)."""
    fed = {feeder: name for name, feeder in feeders.items()}
    found = {}
    for head in fed.keys() - feeders.keys():
        chain = [head]
        while chain[-1] in fed:
            chain.append(fed[chain[-1]])
        found |= {name: (place, len(chain)) for place, name in enumerate(chain[:-1])}
    return found
