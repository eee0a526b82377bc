"""Gather of whole tensors on all learner ranks, as ``learner/weight_stream.py`` does it.

Batch by batch, what one stage holds, and of experts one expert-parallel rank, is gathered over the
ranks that cut it, then broadcast to the other expert-parallel ranks of the stage, then to the other
stages. All copies of the model do that at once. Collectives are rings.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from megatron_rl.parallelism.layouts import Layout

from .cluster import Traffic
from .shares import stages_of
from .tensors import Tensors

_Owner = tuple[int, int | None]
"""Stage, and of experts the expert-parallel rank."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Held:
    """What some owners hold, whole, and in how many batches it is gathered."""

    num_bytes: float = 0
    num_batches: int = 0

    def __add__(self, other: "_Held") -> "_Held":
        return _Held(
            num_bytes=self.num_bytes + other.num_bytes,
            num_batches=self.num_batches + other.num_batches,
        )

    def __sub__(self, other: "_Held") -> "_Held":
        return _Held(
            num_bytes=self.num_bytes - other.num_bytes,
            num_batches=self.num_batches - other.num_batches,
        )


def gather(
    traffic: Traffic, tensors: Tensors, layout: Layout, *, num_ranks: int, batch_bytes: int
) -> None:
    """Note what learner ranks, the first GPUs, send each other until all have the whole model."""
    held = _held_by_owners(tensors, layout, batch_bytes)
    everything = _sum(held, lambda _: True)
    experts = [_sum(held, lambda o, s=s: o[0] == s and o[1] is not None) for s in range(layout.pp)]
    dense = [held.get((stage, None), _Held()) for stage in range(layout.pp)]
    per_stage = num_ranks // layout.pp
    for rank in range(num_ranks):
        stage, place = divmod(rank, per_stage)
        ep_rank = place // layout.etp % layout.ep
        _all_gather(traffic, rank, layout.tp, dense[stage])
        _all_gather(traffic, rank, layout.etp, held.get((stage, ep_rank), _Held()))
        # A broadcast ends at the rank before the one that it began with.
        if layout.ep > 1:
            following = (ep_rank + 1) % layout.ep
            after = rank + (following - ep_rank) * layout.etp
            _send(traffic, rank, after, experts[stage] - held.get((stage, following), _Held()))
        if layout.pp > 1:
            following = (stage + 1) % layout.pp
            after = (rank + per_stage) % num_ranks
            _send(traffic, rank, after, everything - experts[following] - dense[following])


def _held_by_owners(tensors: Tensors, layout: Layout, batch_bytes: int) -> dict[_Owner, _Held]:
    stages = stages_of(tensors, layout)
    per_rank = tensors.spec.num_experts // layout.ep
    held: dict[_Owner, _Held] = {}
    room, batch = batch_bytes, set[_Owner]()
    for rule in tensors.rules:
        owner = stages[rule.megatron], None if rule.expert is None else rule.expert // per_rank
        num_bytes = sum(map(tensors.num_bytes, rule.huggingface))
        if batch and num_bytes > room:
            room, batch = batch_bytes, set()
        room -= num_bytes
        more = _Held(num_bytes=num_bytes, num_batches=int(owner not in batch))
        held[owner] = held.get(owner, _Held()) + more
        batch.add(owner)
    return held


def _sum(held: Mapping[_Owner, _Held], is_meant: Callable[[_Owner], bool]) -> _Held:
    return sum((each for owner, each in held.items() if is_meant(owner)), start=_Held())


def _all_gather(traffic: Traffic, rank: int, size: int, held: _Held) -> None:
    """Note a ring in which every rank passes on all shards but the next rank's own."""
    if size > 1:
        after = rank - rank % size + (rank + 1) % size
        share = _Held(num_bytes=held.num_bytes * (size - 1) / size, num_batches=held.num_batches)
        _send(traffic, rank, after, share)


def _send(traffic: Traffic, rank: int, after: int, held: _Held) -> None:
    if held.num_bytes:
        traffic.send(rank, after, held.num_bytes, held.num_batches)
