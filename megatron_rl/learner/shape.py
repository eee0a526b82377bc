"""The sizes of a model, for planning. Readable without Megatron."""

from megatron_rl.conversion.families import ModelSpec
from megatron_rl.parallelism.shape import ModelShape


def shape_of(spec: ModelSpec) -> ModelShape:
    """Return what parameters, FLOPs and memory of the model follow from."""
    moe, window = spec.moe, spec.window
    nothing = (False,) * spec.num_layers
    slides = nothing if window is None else window.layers
    return ModelShape(
        hidden_size=spec.hidden_size,
        ffn_size=spec.ffn_size,
        num_heads=spec.num_heads,
        num_groups=spec.num_groups,
        head_dim=spec.head_dim,
        vocab_size=spec.vocab_size,
        is_tied=spec.is_tied,
        has_qkv_bias=spec.has_qkv_bias,
        has_qk_norm=spec.has_qk_norm,
        num_experts=0 if moe is None else moe.num_experts,
        expert_ffn_size=0 if moe is None else moe.ffn_size,
        experts_per_token=0 if moe is None else moe.experts_per_token,
        mixtures=nothing if moe is None else moe.layers,
        windows=tuple(
            window.size if window is not None and is_windowed else None for is_windowed in slides
        ),
    )
