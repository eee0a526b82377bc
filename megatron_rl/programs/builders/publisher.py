"""Build the weight publisher that [weights] asks for."""

from typing import Literal

from megatron_rl.config import RunConfig
from megatron_rl.conversion.block_fp8.blocks import quantised_weights
from megatron_rl.conversion.block_fp8.tensors import quantised_tensors
from megatron_rl.learner.device.parallel import Parallel
from megatron_rl.learner.device.platform import Platform
from megatron_rl.learner.learner import Learner
from megatron_rl.model_spec import ModelSpec
from megatron_rl.programs.builders.model import exported_fields, trained_spec
from megatron_rl.programs.checks.quantized_servers import check_quantized_servers
from megatron_rl.programs.checks.weight_transport import check_weight_transport
from megatron_rl.protocols import PolicyPublisher, WeightPublisher
from megatron_rl.run_dir import RunDir
from megatron_rl.weight_sync.collective import CollectivePublisher
from megatron_rl.weight_sync.disk import DiskPublisher
from megatron_rl.weight_sync.gathering import GatheringPublisher
from megatron_rl.weight_sync.shards.opening import open_shards

_MIB = 2**20


def open_publisher(
    config: RunConfig, platform: Platform, learner: Learner, parallel: Parallel
) -> PolicyPublisher:
    """Return this rank's part of the publisher that ``weights.transport`` names; a collective."""
    spec = trained_spec(config)
    check_quantized_servers(config, spec)
    quantised = quantised_for_servers(config, spec)
    on_cpu = platform.backend != "nccl"
    check_weight_transport(config.weights, on_cpu=on_cpu)
    if config.weights.sends_shards(on_cpu=on_cpu):
        backend = _backend(config.weights.backend, platform)
        weights = config.weights
        return open_shards(
            RunDir(config.run_dir),
            learner.shards(quantised),
            backend=backend,
            device=platform,
            timeout_s=weights.timeout_s,
            bucket_bytes=weights.bucket_mb * _MIB,
            retry_after_s=weights.retry_after_s,
            verify=weights.verify,
            passes_on=weights.pass_on,
        )
    publisher = make_whole_publisher(config, platform) if parallel.is_first else None
    return GatheringPublisher(
        publisher, lambda: quantised_weights(learner.named_weights(), quantised)
    )


def quantised_for_servers(config: RunConfig, spec: ModelSpec) -> frozenset[str]:
    """Return the Hugging Face tensors that servers hold in block FP8."""
    return quantised_tensors(spec) if config.generators.quantization != "none" else frozenset()


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
        config_changes=exported_fields(config),
        timeout_s=config.weights.timeout_s,
        bucket_bytes=config.weights.bucket_mb * _MIB,
        retry_after_s=config.weights.retry_after_s,
    )


def _backend(
    setting: Literal["auto", "nccl", "gloo"], platform: Platform
) -> Literal["nccl", "gloo"]:
    if setting != "auto":
        return setting
    return "nccl" if platform.backend == "nccl" else "gloo"
