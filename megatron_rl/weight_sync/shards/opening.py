"""Opening of shards on every learner rank: the publisher on the first, followers on the others."""

import os
from collections.abc import Mapping
from typing import Literal

import torch.distributed as dist

from megatron_rl.protocols import DeviceQueue
from megatron_rl.run_dir import RunDir
from megatron_rl.weight_sync.broadcast import Broadcaster
from megatron_rl.weight_sync.shards.links import ShardLinks
from megatron_rl.weight_sync.shards.loader_orders import LoaderOrders
from megatron_rl.weight_sync.shards.publisher import ShardFollower, ShardPublisher, Verify
from megatron_rl.weight_sync.shards.rank import Plans, ShardRank
from megatron_rl.weight_sync.shards.rank_orders import RankOrders
from megatron_rl.weight_sync.shards.relays import Relays
from megatron_rl.weight_sync.shards.source import ShardSource

_THIS_MACHINE = "127.0.0.1"


def open_shards(
    run_dir: RunDir,
    source: ShardSource,
    *,
    backend: Literal["gloo", "nccl"],
    device: DeviceQueue,
    timeout_s: float,
    bucket_bytes: int,
    retry_after_s: float,
    verify: Verify,
    passes_on: bool,
) -> ShardPublisher | ShardFollower:
    """Return this rank's part; a collective of torch's default group.

    ``passes_on``: servers pass shards on where that is faster. Other arguments as of the parts.
    """
    is_first = dist.get_rank() == 0
    plans = Plans(source)
    orders = LoaderOrders() if is_first else None
    part = ShardRank(
        source,
        plans,
        rank=dist.get_rank(),
        store=_address_of_store(orders, os.environ),
        backend=backend,
        device=device,
    )
    ranks = RankOrders(part)
    if orders is None:
        return ShardFollower(source, ranks)
    links = ShardLinks(source, plans, ranks, orders, backend=backend)
    return ShardPublisher(
        run_dir,
        source,
        links,
        Relays(links) if passes_on else None,
        Broadcaster(run_dir, backend=backend, device=device, timeout_s=timeout_s),
        device=device,
        timeout_s=timeout_s,
        bucket_bytes=bucket_bytes,
        retry_after_s=retry_after_s,
        verify=verify,
    )


def _address_of_store(
    orders: LoaderOrders | None, environment: Mapping[str, str]
) -> tuple[str, int]:
    """Return host and port of the first rank's store, on every rank."""
    if dist.get_world_size() == 1:
        assert orders is not None
        return _THIS_MACHINE, orders.port
    box = [None if orders is None else orders.port]
    dist.broadcast_object_list(box, src=0)
    assert box[0] is not None
    # Where torch's own store is, which all ranks have reached.
    return environment["MASTER_ADDR"], box[0]
