"""Weight stream: whole Hugging Face tensors gathered from a sharded model, batch by batch.

A batch is a run of parameters in the order of the weight rules. Those of one owner (a pipeline
stage, and for experts an expert-parallel rank) travel together as bytes, so that the number of
collectives does not depend on how many parameters, or experts, a batch has.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_rl.conversion.families import WeightRule, weight_rules
from megatron_rl.conversion.layouts import to_huggingface, unshard
from megatron_rl.conversion.stacked import Stacks
from megatron_rl.learner.device.parallel import Parallel
from megatron_rl.learner.hf_weights import cut_of, params_by_rule
from megatron_rl.model_spec import ModelSpec

# Every shard starts at a multiple of this in the buffer it travels in, whatever its type.
_ALIGNMENT = 16


@torch.no_grad()
def named_weights(
    chunks: Sequence[torch.nn.Module],
    spec: ModelSpec,
    parallel: Parallel,
    *,
    batch_bytes: int,
    only: frozenset[str] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield every (Hugging Face name, whole tensor) in a fixed order, on every rank.

    A collective: all ranks iterate together. While a batch is gathered, at most three times as much
    is held as it has bytes (its shards packed, all shards received, and a copy of these inside the
    collective); while it is handed out, the batch and copies of one parameter. A tensor of all
    experts of a layer is held whole beside that, from its first expert on. That is besides
    what the consumer keeps, since yielded tensors may share the batch's memory. They may also alias
    the live weights, where one rank has the whole of a parameter: use them before the next update.

    Args:
        chunks: the bare GPTModels of this rank's pipeline stage.
        spec: of the whole model.
        parallel: this rank in the layout.
        batch_bytes: most bytes of a batch; a parameter that is larger is a batch of its own.
        only: names to yield, together with those of the same parameters; None for all.
    """
    params = params_by_rule(chunks, spec, parallel)
    device = next(chunks[0].parameters()).device
    items = [
        item
        for item in _items(params, spec, parallel)
        if only is None or not only.isdisjoint(item.rule.huggingface)
    ]
    stacks = Stacks(spec.num_experts)
    for batch in _batches(items, max_bytes=batch_bytes):
        shards = _shards_of(batch, params, parallel, device)
        for item in batch:
            # In a frame of its own: a tensor kept here would keep its batch beside the next one.
            yield from _converted(item.rule, shards.pop(item.rule.megatron), spec, stacks)


def _converted(
    rule: WeightRule, shards: Sequence[Tensor], spec: ModelSpec, stacks: Stacks
) -> Iterator[tuple[str, Tensor]]:
    tensors = to_huggingface(
        rule.layout,
        unshard(rule.layout, shards),
        num_groups=spec.num_groups,
        head_dim=spec.head_dim,
        interleaved_dim=spec.interleaved_dim,
        vocab_size=spec.vocab_size,
    )
    yield from stacks.completed(rule, tensors)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Owner:
    """The ranks that hold the shards of a parameter."""

    stage: int
    ep_rank: int | None
    """Which expert-parallel rank; None for what all of them hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shard:
    """Where a parameter is, and what one rank holds of it."""

    owner: _Owner
    shape: torch.Size
    dtype: torch.dtype


@dataclass(frozen=True, kw_only=True, slots=True)
class _Item:
    """A parameter of a batch."""

    rule: WeightRule
    shard: _Shard
    shard_bytes: int
    """As it travels: up to the next aligned address."""
    num_shards: int


def _items(
    params: Mapping[str, Sequence[Tensor]], spec: ModelSpec, parallel: Parallel
) -> list[_Item]:
    """Return all parameters of the whole model in order, the same on every rank."""
    rules = list(weight_rules(spec))
    shards = _everyones_shards(rules, params, parallel)
    items = []
    for rule in rules:
        shard = shards[rule.megatron]
        num_bytes = shard.shape.numel() * shard.dtype.itemsize
        items.append(
            _Item(
                rule=rule,
                shard=shard,
                shard_bytes=-(-num_bytes // _ALIGNMENT) * _ALIGNMENT,
                num_shards=cut_of(rule, parallel)[0],
            )
        )
    return items


def _everyones_shards(
    rules: Sequence[WeightRule], params: Mapping[str, Sequence[Tensor]], parallel: Parallel
) -> dict[str, _Shard]:
    mine = {}
    for rule in rules:
        if rule.megatron in params:
            param = params[rule.megatron][0]
            owner = _Owner(
                stage=parallel.pp_rank, ep_rank=None if rule.expert is None else parallel.ep_rank
            )
            mine[rule.megatron] = _Shard(owner=owner, shape=param.shape, dtype=param.dtype)
    if parallel.layout.pp == parallel.layout.ep == 1:
        return mine
    everyone: list[dict[str, _Shard]] = [{}] * parallel.world_size
    dist.all_gather_object(everyone, mine)
    # The first stage that holds a parameter wins: a tied output layer is also on the last.
    found = [item for rank in everyone for item in rank.items()]
    return dict(sorted(found, key=lambda item: -item[1].owner.stage))


def _batches(items: Sequence[_Item], *, max_bytes: int) -> Iterator[list[_Item]]:
    batch: list[_Item] = []
    held = 0
    for item in items:
        num_bytes = item.shard_bytes * item.num_shards
        if batch and held + num_bytes > max_bytes:
            yield batch
            batch, held = [], 0
        batch.append(item)
        held += num_bytes
    if batch:
        yield batch


def _shards_of(
    batch: Sequence[_Item],
    params: Mapping[str, Sequence[Tensor]],
    parallel: Parallel,
    device: torch.device,
) -> dict[str, list[Tensor]]:
    """Return all shards of every parameter of a batch by its name."""
    by_owner: dict[tuple[_Owner, bool], list[_Item]] = {}
    for item in batch:
        is_expert = item.rule.expert is not None
        by_owner.setdefault((item.shard.owner, is_expert), []).append(item)
    shards: dict[str, list[Tensor]] = {}
    for (owner, is_expert), items in by_owner.items():
        is_spread = parallel.layout.pp > 1 or (is_expert and parallel.layout.ep > 1)
        if items[0].num_shards == 1 and not is_spread:
            shards |= {i.rule.megatron: [params[i.rule.megatron][0].detach()] for i in items}
            continue
        received = _gathered(items, owner, params, parallel, device)
        _deliver(received, owner, parallel)
        shards |= _unpacked(received, items)
    return shards


def _gathered(
    items: Sequence[_Item],
    owner: _Owner,
    params: Mapping[str, Sequence[Tensor]],
    parallel: Parallel,
    device: torch.device,
) -> Tensor:
    """Return [shards, bytes] of the items of one owner: all of them there, memory elsewhere."""
    num_bytes = sum(item.shard_bytes for item in items)
    size, _, group = cut_of(items[0].rule, parallel)
    received = torch.empty(size, num_bytes, dtype=torch.uint8, device=device)
    is_here = owner.stage == parallel.pp_rank and owner.ep_rank in (None, parallel.ep_rank)
    if not is_here:
        return received
    packed = received[0] if size == 1 else torch.empty_like(received[0])
    start = 0
    for item in items:
        param = params[item.rule.megatron][0].detach()
        packed[start : start + param.nbytes] = param.contiguous().view(-1).view(torch.uint8)
        start += item.shard_bytes
    if size > 1:
        dist.all_gather(list(received.unbind()), packed, group=group)
    return received


def _deliver(received: Tensor, owner: _Owner, parallel: Parallel) -> None:
    """Send what is gathered on one owner to its stage, then to all stages."""
    if owner.stage == parallel.pp_rank and owner.ep_rank is not None and parallel.layout.ep > 1:
        _broadcast(received, source=owner.ep_rank, group=parallel.ep_group)
    if parallel.layout.pp > 1:
        _broadcast(received, source=owner.stage, group=parallel.pp_group)


def _broadcast(tensor: Tensor, *, source: int, group: Any) -> None:
    dist.broadcast(tensor, src=dist.get_process_group_ranks(group)[source], group=group)


def _unpacked(received: Tensor, items: Sequence[_Item]) -> dict[str, list[Tensor]]:
    shards = {}
    start = 0
    for item in items:
        num_bytes = item.shard.shape.numel() * item.shard.dtype.itemsize
        shards[item.rule.megatron] = [
            part[start : start + num_bytes].view(item.shard.dtype).view(item.shard.shape)
            for part in received.unbind()
        ]
        start += item.shard_bytes
    return shards
