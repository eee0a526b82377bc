"""Build the weight publisher that [weights] asks for."""

import os
from collections.abc import Mapping
from typing import Literal

import torch.distributed as dist

from megatron_rl.config import RunConfig
from megatron_rl.errors import ConfigError
from megatron_rl.learner.device.parallel import Parallel
from megatron_rl.learner.device.platform import Platform
from megatron_rl.learner.learner import Learner
from megatron_rl.protocols import PolicyPublisher, WeightPublisher
from megatron_rl.run_dir import RunDir
from megatron_rl.weight_sync.broadcast import Broadcaster
from megatron_rl.weight_sync.collective import CollectivePublisher
from megatron_rl.weight_sync.disk import DiskPublisher
from megatron_rl.weight_sync.gathering import GatheringPublisher
from megatron_rl.weight_sync.shards.links import ShardLinks
from megatron_rl.weight_sync.shards.loader_orders import LoaderOrders
from megatron_rl.weight_sync.shards.publisher import ShardFollower, ShardPublisher
from megatron_rl.weight_sync.shards.rank import Plans, ShardRank
from megatron_rl.weight_sync.shards.rank_orders import RankOrders

_MIB = 2**20
_THIS_MACHINE = "127.0.0.1"


def open_publisher(
    config: RunConfig, platform: Platform, learner: Learner, parallel: Parallel
) -> PolicyPublisher:
    """Return this rank's part of the publisher that ``weights.transport`` names; a collective."""
    on_cpu = platform.backend != "nccl"
    if config.weights.sends_shards(on_cpu=on_cpu):
        backend = _backend(config.weights.backend, platform)
        if backend == "gloo" and not on_cpu:
            raise ConfigError(
                'weights.transport ("shards") with weights.backend ("gloo") needs a learner on '
                "CPUs: gloo sends no memory of a GPU from rank to rank; set weights.backend = "
                '"nccl", or weights.transport = "collective"'
            )
        return _open_shards(config, platform, learner, parallel, backend)
    publisher = make_whole_publisher(config, platform) if parallel.is_first else None
    return GatheringPublisher(publisher, learner.named_weights)


def make_whole_publisher(config: RunConfig, platform: Platform) -> WeightPublisher:
    """Return a publisher of whole tensors: through a folder, or by broadcast."""
    if config.weights.transport == "disk":
        return make_disk_publisher(config)
    weights = config.weights
    return CollectivePublisher(
        RunDir(config.run_dir),
        backend=_backend(weights.backend, platform),
        device=platform,
        timeout_s=weights.timeout_s,
        bucket_bytes=weights.bucket_mb * _MIB,
        retry_after_s=weights.retry_after_s,
    )


def make_disk_publisher(config: RunConfig) -> DiskPublisher:
    """Return the publisher through a folder, which needs no process group."""
    return DiskPublisher(
        RunDir(config.run_dir),
        model_folder=config.model.path,
        timeout_s=config.weights.timeout_s,
        bucket_bytes=config.weights.bucket_mb * _MIB,
        retry_after_s=config.weights.retry_after_s,
    )


def _open_shards(
    config: RunConfig,
    platform: Platform,
    learner: Learner,
    parallel: Parallel,
    backend: Literal["nccl", "gloo"],
) -> PolicyPublisher:
    source = learner.shards()
    plans = Plans(source)
    orders = LoaderOrders() if parallel.is_first else None
    part = ShardRank(
        source,
        plans,
        rank=parallel.rank,
        store=_address_of_store(orders, os.environ),
        backend=backend,
        device=platform,
    )
    ranks = RankOrders(part)
    if orders is None:
        return ShardFollower(source, ranks)
    weights, run_dir = config.weights, RunDir(config.run_dir)
    return ShardPublisher(
        run_dir,
        source,
        ShardLinks(source, plans, ranks, orders, backend=backend, timeout_s=weights.timeout_s),
        Broadcaster(run_dir, backend=backend, device=platform, timeout_s=weights.timeout_s),
        device=platform,
        timeout_s=weights.timeout_s,
        bucket_bytes=weights.bucket_mb * _MIB,
        retry_after_s=weights.retry_after_s,
        verify=weights.verify,
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
    return environment["MASTER_ADDR"], box[0]


def _backend(
    setting: Literal["auto", "nccl", "gloo"], platform: Platform
) -> Literal["nccl", "gloo"]:
    if setting != "auto":
        return setting
    return "nccl" if platform.backend == "nccl" else "gloo"
