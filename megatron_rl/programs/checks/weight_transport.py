"""Weight transport of a configured run: how new weights reach servers, and the bytes of it."""

from megatron_rl.config import RunConfig, WeightsConfig
from megatron_rl.errors import ConfigError
from megatron_rl.model_spec import ModelSpec
from megatron_rl.parallelism.serving_memory import estimate_serving_memory
from megatron_rl.programs.checks.server_memory import ELEMENT_SIZES, served_element_size

_GB = 1e9


def check_weight_transport(weights: WeightsConfig, *, on_cpu: bool) -> None:
    """Raise ConfigError for shards that the backend cannot send.

    Args:
        weights: settings of the run.
        on_cpu: the learner computes on CPUs.
    """
    if weights.transport == "shards" and weights.backend == "gloo" and not on_cpu:
        raise ConfigError(
            'weights.transport ("shards") with weights.backend ("gloo") needs a learner on CPUs: '
            "gloo sends no memory of a GPU from rank to rank; set weights.backend = "
            '"nccl", or weights.transport = "collective"'
        )


def describe_weight_transport(config: RunConfig, spec: ModelSpec, *, on_cpu: bool) -> str:
    """Return how weights go, and how many bytes each rank of a server receives at every step.

    Args:
        config: of the run.
        spec: of its model.
        on_cpu: learner and servers compute on CPUs.
    """
    tp = config.generators.tp
    kind = ", in block FP8" if config.generators.quantization == "block_fp8" else ""
    whole = _bytes_of_rank(config, spec, tp=1)
    if config.weights.transport == "disk":
        return f"weights: {whole / _GB:.2f} GB through a folder, which every rank reads"
    if config.weights.sends_shards(on_cpu=on_cpu):
        shard = _bytes_of_rank(config, spec, tp=tp)
        return (
            f"weights: by shards, {shard / _GB:.2f} GB into each of the {tp} ranks of a server; "
            f"whole tensors once, when a server is admitted{kind}"
        )
    return (
        f"weights: whole tensors by broadcast, {whole / _GB:.2f} GB into each of the {tp} ranks "
        f"of a server{kind}"
    )


def _bytes_of_rank(config: RunConfig, spec: ModelSpec, *, tp: int) -> int:
    """Return the bytes of the weights that one of ``tp`` ranks of a server holds."""
    memory = estimate_serving_memory(
        spec,
        tp=tp,
        element_size=served_element_size(config, spec),
        cache_element_size=ELEMENT_SIZES[config.model.dtype],
        gpu_bytes=0,
    )
    return memory.weights
