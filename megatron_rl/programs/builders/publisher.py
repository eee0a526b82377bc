"""Build the weight publisher that [weights] asks for."""

from typing import Literal

from megatron_rl.config import RunConfig
from megatron_rl.learner.device.platform import Platform
from megatron_rl.protocols import WeightPublisher
from megatron_rl.run_dir import RunDir
from megatron_rl.weight_sync.collective import CollectivePublisher
from megatron_rl.weight_sync.disk import DiskPublisher

_MIB = 2**20


def make_publisher(config: RunConfig, platform: Platform) -> WeightPublisher:
    """Return the publisher that ``weights.transport`` names."""
    if config.weights.transport == "disk":
        return make_disk_publisher(config)
    weights = config.weights
    return CollectivePublisher(
        RunDir(config.run_dir),
        backend=_broadcast_backend(weights.backend, platform),
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


def _broadcast_backend(
    setting: Literal["auto", "nccl", "gloo"], platform: Platform
) -> Literal["nccl", "gloo"]:
    if setting != "auto":
        return setting
    return "nccl" if platform.backend == "nccl" else "gloo"
