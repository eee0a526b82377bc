"""Tensor-parallel sizes of a server on GPUs: which SGLang can cut a model into. Pure arithmetic.

SGLang cuts heads and feed-forward layers evenly. Key/value heads are cut evenly too, or copied
where there are more ranks than heads. Its CPU build pads all of them, so any size is legal there.
"""

from collections.abc import Iterator, Sequence

from megatron_rl.errors import ConfigError
from megatron_rl.model_spec import ModelSpec

_VOCABULARY_MULTIPLE = 64
"""SGLang pads a vocabulary to a multiple of this before it cuts it."""
_SHOWN = 2


def check_serving_ranks(spec: ModelSpec, *, tp: int, ep: int = 1) -> None:
    """Raise ConfigError when a server of ``tp`` ranks cannot hold the model, with those that can.

    Args:
        ep: ranks that share the experts of a layer (SGLang's ``ep-size``); each expert is cut over
            the ``tp / ep`` others.
    """
    broken = list(_broken(spec, tp, ep))
    if not broken:
        return
    legal = ", ".join(f"tp={size}" for size in _nearest(spec, tp, ep))
    raise ConfigError(
        f"generators.tp ({tp}) cannot cut this model in SGLang: {'; '.join(broken)}; "
        + (f"nearest legal: {legal}" if legal else "set another generators.sglang.ep-size")
    )


def is_servable(spec: ModelSpec, *, tp: int, ep: int = 1) -> bool:
    """Return whether a server of ``tp`` ranks can hold the model."""
    return not any(_broken(spec, tp, ep))


def _broken(spec: ModelSpec, tp: int, ep: int) -> Iterator[str]:
    if spec.num_heads % tp:
        yield f"it must divide the attention heads ({spec.num_heads})"
    if spec.num_groups % tp and tp % spec.num_groups:
        yield f"it must divide the key/value heads ({spec.num_groups}) or be a multiple of them"
    if not all(spec.mixtures) and spec.ffn_size % tp:
        yield f"it must divide the ffn size ({spec.ffn_size})"
    padded = -(-spec.vocab_size // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE
    if padded % tp:
        yield f"it must divide the padded vocabulary ({padded})"
    if spec.moe is not None:
        yield from _broken_experts(spec, tp, ep)


def _broken_experts(spec: ModelSpec, tp: int, ep: int) -> Iterator[str]:
    if tp % ep or spec.num_experts % ep:
        yield (
            f"generators.sglang.ep-size ({ep}) must divide it and the experts ({spec.num_experts})"
        )
        return
    cut = tp // ep
    over = "" if ep == 1 else f" over ep-size ({ep})"
    if spec.expert_ffn_size % cut:
        yield f"it{over} must divide the experts' ffn size ({spec.expert_ffn_size})"
    if spec.shared_ffn_size % tp:
        yield f"it must divide the shared expert's ffn size ({spec.shared_ffn_size})"
    if cut > spec.num_experts:
        yield f"it{over} must be <= the number of experts ({spec.num_experts})"


def _nearest(spec: ModelSpec, tp: int, ep: int) -> Sequence[int]:
    legal = [size for size in range(1, spec.num_heads + 1) if is_servable(spec, tp=size, ep=ep)]
    return sorted(sorted(legal, key=lambda size: (abs(size - tp), size))[:_SHOWN])
