"""Serving memory of a configured server: the sequences that fit beside its weights."""

import functools
import math
from collections.abc import Iterator

from megatron_rl.config import GeneratorsConfig, RunConfig
from megatron_rl.conversion.block_fp8.tensors import BLOCK, quantised_tensors
from megatron_rl.conversion.families.shapes import tensor_shapes
from megatron_rl.errors import ConfigError
from megatron_rl.model_spec import ModelSpec
from megatron_rl.parallelism.serving_memory import ServingMemory, estimate_serving_memory
from megatron_rl.parallelism.serving_ranks import is_servable

_GIB = 2**30
ELEMENT_SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of an element of each ``model.dtype``."""
_SCALE_BYTES = 4
_FP8_CACHE = ("fp8_e4m3", "fp8_e5m2")


def estimate_server_memory(
    config: RunConfig,
    spec: ModelSpec,
    *,
    gpu_memory_gb: float,
    tp: int | None = None,
    is_measured: bool = False,
) -> ServingMemory:
    """Return what one GPU of a server holds, with the flags of ``generators.sglang`` applied.

    Args:
        gpu_memory_gb: GiB of a GPU.
        tp: instead of generators.tp.
        is_measured: see ``estimate_serving_memory``; a server holds most tokens then.
    """
    generators, flags = config.generators, config.generators.sglang
    element_size = ELEMENT_SIZES[config.model.dtype]
    has_fp8_cache = "kv-cache-dtype" in flags and flags["kv-cache-dtype"] in _FP8_CACHE
    return estimate_serving_memory(
        spec,
        tp=generators.tp if tp is None else tp,
        element_size=served_element_size(config, spec),
        cache_element_size=1 if has_fp8_cache else element_size,
        gpu_bytes=int(gpu_memory_gb * _GIB),
        static_fraction=_number(generators, "mem-fraction-static"),
        prefill_tokens=_tokens(generators, "chunked-prefill-size"),
        is_measured=is_measured,
    )


def served_element_size(config: RunConfig, spec: ModelSpec) -> float:
    """Return the bytes that an element of the weights takes on servers, on average."""
    size = ELEMENT_SIZES[config.model.dtype]
    if config.generators.quantization == "none":
        return size
    share = _quantised_share(spec)
    return share * (1 + _SCALE_BYTES / BLOCK**2) + (1 - share) * size


@functools.lru_cache(maxsize=4)
def _quantised_share(spec: ModelSpec) -> float:
    """Return which part of the parameters servers hold in block FP8."""
    quantised, counts = quantised_tensors(spec), {True: 0, False: 0}
    for name, shape in tensor_shapes(spec):
        counts[name in quantised] += math.prod(shape)
    return counts[True] / sum(counts.values())


def describe_server_memory(
    config: RunConfig, spec: ModelSpec, *, gpu_memory_gb: float
) -> Iterator[str]:
    """Yield what a server holds, and what that means for ``rollout.n_async``.

    Raises:
        ConfigError: it cannot hold one sequence of the context length.
    """
    memory = estimate_server_memory(config, spec, gpu_memory_gb=gpu_memory_gb)
    most = estimate_server_memory(config, spec, gpu_memory_gb=gpu_memory_gb, is_measured=True)
    tokens, context = capacity(config, memory), context_length(config, spec)
    if capacity(config, most) < context:
        raise ConfigError(_refusal(config, spec, most, gpu_memory_gb=gpu_memory_gb))
    longest = min(context, config.generators.sampling.max_new_tokens)
    servers, wanted = config.generators.num_servers, config.rollout.n_async
    fit, mean = servers * (tokens // longest), servers * tokens // wanted
    yield (
        f"a server, estimated: weights {memory.weights / _GIB:.1f} of {gpu_memory_gb:g} GiB a GPU, "
        f"cache of {tokens:,} tokens: {tokens // context} sequences of the context length "
        f"({context}), {tokens // longest} completions of max_new_tokens ({longest})"
    )
    if tokens < context:
        yield (
            "warning: that may be less than one sequence of the context length; set a larger "
            "generators.tp, or a smaller generators.context_length"
        )
    elif wanted > fit:
        yield (
            f"of rollout.n_async ({wanted}) {fit} run at once at that length, and the others wait "
            f"in the servers' queues; all run while they have {mean:,} tokens "
            "on average, prompt included"
        )


def capacity(config: RunConfig, memory: ServingMemory) -> int:
    """Return the tokens of all sequences together that a server holds."""
    limit = _tokens(config.generators, "max-total-tokens")
    return memory.num_tokens if limit is None else min(limit, memory.num_tokens)


def context_length(config: RunConfig, spec: ModelSpec) -> int:
    """Return the longest prompt plus completion that a server accepts."""
    configured = config.generators.context_length
    return spec.max_positions if configured is None else configured


def _refusal(
    config: RunConfig, spec: ModelSpec, memory: ServingMemory, *, gpu_memory_gb: float
) -> str:
    context, tokens = context_length(config, spec), capacity(config, memory)
    found = (
        f"a server with generators.tp ({config.generators.tp}) holds {tokens:,} tokens beside "
        f"{memory.weights / _GIB:.1f} GiB of weights on a GPU of launch.gpu_memory_gb "
        f"({gpu_memory_gb:g}), less than one sequence of the context length ({context})"
    )
    tp = config.generators.tp * 2
    while is_servable(spec, tp=tp):
        larger = estimate_server_memory(
            config, spec, gpu_memory_gb=gpu_memory_gb, tp=tp, is_measured=True
        )
        if capacity(config, larger) >= context:
            return f"{found}; set generators.tp = {tp}, or a smaller generators.context_length"
        tp *= 2
    return f"{found}; set a smaller generators.context_length, or use GPUs with more memory"


def _number(generators: GeneratorsConfig, flag: str) -> float | None:
    return float(generators.sglang[flag]) if flag in generators.sglang else None


def _tokens(generators: GeneratorsConfig, flag: str) -> int | None:
    return int(generators.sglang[flag]) if flag in generators.sglang else None
