"""Serving memory of one GPU of a server, in bytes, and the tokens whose cache fits. Pure.

SGLang divides a GPU into a static part (weights and key-value cache, ``mem-fraction-static``) and a
reserve for activations and CUDA graphs. Without that flag it estimates the reserve (``reserve``),
or it measures what is free once graphs are captured and keeps only ``least_reserve``: which of the
two depends on its flags and kernels (arg_groups/memory_hook.py of 0.5.21).
"""

from dataclasses import dataclass

from megatron_rl.model_spec import ModelSpec
from megatron_rl.parallelism.layouts import Layout
from megatron_rl.parallelism.parameters import stage_parameters

_MIB, _GIB = 2**20, 2**30
_LARGE_GPU, _LARGE_RESERVE = 60 * _GIB, 10 * _GIB
_PREFILL_GRAPHS = (
    *range(4, 33, 4),
    *range(48, 257, 16),
    *range(288, 513, 32),
    *range(576, 1025, 64),
    *range(1280, 4097, 256),
    *range(4608, 16385, 512),
)
"""Numbers of tokens whose prefill SGLang captures, up to those of a chunk; 8 MiB each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingMemory:
    """Shares of one GPU of a tensor-parallel server."""

    weights: int
    reserve: int
    """Activations, CUDA graphs, and what the driver and other programs take."""
    cache: int
    """Left for the key-value cache; negative when the weights alone do not fit."""
    cache_per_token: int

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences together whose keys and values a server holds."""
        return max(0, self.cache) // self.cache_per_token


def estimate_serving_memory(
    model: ModelSpec,
    *,
    tp: int,
    element_size: float,
    cache_element_size: int,
    gpu_bytes: int,
    static_fraction: float | None = None,
    prefill_tokens: int | None = None,
    is_measured: bool = False,
) -> ServingMemory:
    """Return what one GPU holds.

    Every layer is counted with a cache of the whole sequence, also where attention slides.

    Args:
        model: served.
        tp: tensor-parallel size of the server.
        element_size: bytes of a weight, on average where some are quantised.
        cache_element_size: bytes of an element of a key or value.
        gpu_bytes: memory of a GPU.
        static_fraction: ``mem-fraction-static``; None for SGLang's own choice.
        prefill_tokens: ``chunked-prefill-size``; None for SGLang's own choice.
        is_measured: SGLang measures what is free after capturing graphs, instead of estimating it.
    """
    weights = int(weights_on_gpu(model, tp=tp) * element_size)
    if static_fraction is not None:
        held_back = int(gpu_bytes * (1 - static_fraction))
    elif is_measured:
        held_back = least_reserve(tp=tp)
    else:
        held_back = reserve(gpu_bytes, tp=tp, prefill_tokens=prefill_tokens)
    return ServingMemory(
        weights=weights,
        reserve=held_back,
        cache=gpu_bytes - held_back - weights,
        cache_per_token=cache_elements(model, tp=tp) * cache_element_size,
    )


def weights_on_gpu(model: ModelSpec, *, tp: int) -> int:
    """Count the parameters of one tensor-parallel rank; heads of keys are copied, not cut."""
    layout = Layout(tp=tp, sp=False, pp=1, vpp=1, cp=1, ep=1, etp=tp)
    parts = stage_parameters(model, layout, 0)
    dense, expert = parts.on_rank(layout)
    if model.latent is not None:
        # What keys and values are made with is kept once more, as it is multiplied with queries
        # and with the result.
        heads = model.num_heads * (model.head_dim - model.rotary_dim + model.latent.value_dim)
        return dense + expert + model.num_layers * model.latent.kv_rank * heads // tp
    evenly = 2 * model.num_groups * model.head_dim * model.hidden_size // tp
    copied = 2 * _groups_on_gpu(model, tp) * model.head_dim * model.hidden_size
    layers = dense + expert + model.num_layers * (copied - evenly)
    if model.embedding_scale == 1:
        return layers
    # SGLang's scaled embedding is whole on every rank.
    return layers + model.vocab_size * model.hidden_size * (tp - 1) // tp


def cache_elements(model: ModelSpec, *, tp: int) -> int:
    """Count the elements of keys and values, or of their latent, that one GPU keeps of a token."""
    if model.latent is not None:
        return model.num_layers * (model.latent.kv_rank + model.rotary_dim)
    return 2 * model.num_layers * _groups_on_gpu(model, tp) * model.head_dim


def reserve(gpu_bytes: int, *, tp: int, prefill_tokens: int | None) -> int:
    """Return the bytes that SGLang keeps out of its static part when it estimates them."""
    chunk, graph_batch = _defaults(gpu_bytes, tp)
    tokens = max(chunk if prefill_tokens is None else prefill_tokens, 2048)
    graphs = sum(size <= tokens for size in _PREFILL_GRAPHS)
    mib = 512 + 1.5 * tokens + 1024 * tp / 8 + 2 * graph_batch + 8 * graphs
    held_back = int(mib * _MIB)
    return max(held_back, _LARGE_RESERVE) if gpu_bytes > _LARGE_GPU else held_back


def least_reserve(*, tp: int) -> int:
    """Return the bytes that SGLang keeps back when it measures what graphs have left."""
    return int((1536 + 1024 * tp / 8) * _MIB)


def _defaults(gpu_bytes: int, tp: int) -> tuple[int, int]:
    """Return SGLang's chunk of a prefill, and the largest batch whose decoding it captures."""
    if gpu_bytes < 20 * _GIB:
        return 2048, 8
    if gpu_bytes < 35 * _GIB:
        return 4096, 48 if tp < 4 else 160
    if gpu_bytes < 60 * _GIB:
        return 4096, 32 if tp < 4 else 160
    if gpu_bytes < 160 * _GIB:
        return 8192, 256 if tp < 4 else 512
    return 16384, 512


def _groups_on_gpu(model: ModelSpec, tp: int) -> int:
    return -(-model.num_groups // tp)
