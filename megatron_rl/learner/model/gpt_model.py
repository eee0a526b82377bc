"""Megatron GPTModel of a model specification, wrapped for data parallelism."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.fusions.fused_bias_geglu import quick_gelu
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer import MLATransformerConfig, TransformerConfig
from megatron.core.transformer.moe.router import TopKRouter

from megatron_rl.conversion.layouts import padded_vocab_size
from megatron_rl.conversion.rope import softmax_scale
from megatron_rl.errors import ConfigError
from megatron_rl.learner.device.apex import has_gradient_fusion
from megatron_rl.learner.device.parallel import Parallel
from megatron_rl.learner.device.platform import Platform
from megatron_rl.learner.model.expert_gradients import (
    reduce_expert_biases_as_weights,
    reduce_over_expert_replicas,
)
from megatron_rl.learner.model.overrides import as_fields
from megatron_rl.learner.model.rotary_tables import rotate_by_layer, set_frequencies
from megatron_rl.learner.model.router_biases import add_router_biases_apart
from megatron_rl.learner.model.sandwich_norms import normalise_branches
from megatron_rl.model_spec import (
    Activation,
    LatentAttention,
    ModelSpec,
    MoeSpec,
    SharedExpert,
    SlidingWindow,
    YarnScaling,
)
from megatron_rl.parallelism.layouts import Layout

PARAMETER_TYPES: Mapping[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    # Quantised on the way into each product.
    "fp8": torch.bfloat16,
}
"""Type of the parameters for each ``learner.precision``."""


_ACTIVATIONS = {
    "silu": F.silu,
    # Megatron's function for the activation of gate and up takes it for the one with a tanh.
    "gelu_tanh": F.gelu,
}


def transformer_config(
    spec: ModelSpec, layout: Layout, *, dtype: torch.dtype, overrides: Mapping[str, Any]
) -> TransformerConfig:
    """Describe the model to Megatron; ``overrides`` are further TransformerConfig fields."""
    fields: dict[str, Any] = {
        "num_layers": spec.num_layers,
        "hidden_size": spec.hidden_size,
        "ffn_hidden_size": spec.ffn_size,
        "num_attention_heads": spec.num_heads,
        "num_query_groups": spec.num_groups,
        "kv_channels": spec.head_dim,
        "layernorm_epsilon": spec.norm_eps,
        "qk_layernorm": spec.has_qk_norm,
        "add_qkv_bias": spec.has_qkv_bias,
        "softmax_scale": softmax_scale(spec.rope_scaling, head_dim=_score_dim(spec)),
        "normalization": "RMSNorm",
        "layernorm_zero_centered_gamma": spec.has_centred_norms,
        "gated_linear_unit": True,
        "add_bias_linear": spec.has_linear_biases,
        "softmax_type": "learnable" if spec.has_sinks else "vanilla",
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "gradient_accumulation_fusion": has_gradient_fusion(),
        "tensor_model_parallel_size": layout.tp,
        "sequence_parallel": layout.sp,
        "pipeline_model_parallel_size": layout.pp,
        "virtual_pipeline_model_parallel_size": None if layout.vpp == 1 else layout.vpp,
        "context_parallel_size": layout.cp,
        "expert_model_parallel_size": layout.ep,
        "expert_tensor_parallel_size": layout.etp,
        # With interleaving, batched sends silently mix up microbatches (wrong loss).
        "overlap_p2p_comm": layout.vpp > 1,
        "batch_p2p_comm": layout.vpp == 1,
        # Weights are always read in, so that every layout starts from the same model. Megatron's
        # initialisation still runs, emptily: it is what marks parameters as tensor-parallel, and
        # unmarked ones are counted once too few in the gradient norm.
        "init_method": _leave_uninitialised,
        "output_layer_init_method": _leave_uninitialised,
        "embedding_init_method": _leave_uninitialised,
        # Data-parallel gradients are summed, because token weights are already normalised.
        "calculate_per_token_loss": True,
        "variable_seq_lengths": True,
        # Even dense models need it, since rows vary in length.
        "moe_token_dispatcher_type": "alltoall",
    }
    fields |= _activation_fields(spec.activation)
    fields |= _window_fields(spec.window) | _moe_fields(spec.moe)
    config_class = TransformerConfig
    if spec.latent is not None:
        config_class = MLATransformerConfig
        fields |= _latent_fields(spec, spec.latent)
    try:
        return config_class(**(fields | as_fields(overrides)))
    except (ValueError, AssertionError, TypeError) as error:
        raise ConfigError(f"learner.megatron: TransformerConfig refuses: {error}") from error


def _score_dim(spec: ModelSpec) -> float:
    """Return what attention scores are divided by the square root of."""
    stated = spec.query_pre_attn_scalar
    return spec.head_dim if stated is None else stated


def _activation_fields(activation: Activation) -> dict[str, Any]:
    if activation == "clamped":
        return {
            "activation_func": quick_gelu,
            "activation_func_clamp_value": 7.0,
            "glu_linear_offset": 1.0,
            # As one function it clamps before it adds the bias.
            "bias_activation_fusion": False,
        }
    return {
        "activation_func": _ACTIVATIONS[activation],
        # One function for the activation of gate and up: otherwise its parts keep two more tensors
        # of the feed-forward's width for the backward pass, three more of an expert's.
        "bias_activation_fusion": True,
    }


def _latent_fields(spec: ModelSpec, latent: LatentAttention) -> dict[str, Any]:
    scaling = spec.rope_scaling
    return {
        "q_lora_rank": latent.query_rank,
        "kv_lora_rank": latent.kv_rank,
        "qk_head_dim": spec.head_dim - spec.rotary_dim,
        "qk_pos_emb_head_dim": spec.rotary_dim,
        "v_head_dim": latent.value_dim,
        # Megatron's word for norms of what queries, keys and values are made from.
        "qk_layernorm": True,
        # YaRN's frequencies replace its own; what YaRN adds to the scale of scores is Megatron's.
        "rope_type": "rope",
        "rotary_base": spec.rope_theta,
        "softmax_scale": None,
        "rotary_scaling_factor": scaling.factor if isinstance(scaling, YarnScaling) else 1.0,
        "mscale_all_dim": latent.mscale,
    }


def _window_fields(window: SlidingWindow | None) -> dict[str, Any]:
    if window is None:
        return {}
    return {
        # Tokens before and after the query that it sees, without itself.
        "window_size": (window.size - 1, 0),
        "window_attn_skip_freq": [int(slides) for slides in window.layers],
    }


def _moe_fields(moe: MoeSpec | None) -> dict[str, Any]:
    if moe is None:
        return {}
    return (
        _shared_fields(moe.shared)
        | _routing_fields(moe)
        | {
            "num_moe_experts": moe.num_experts,
            "moe_ffn_hidden_size": moe.ffn_size,
            "moe_layer_freq": [int(is_moe) for is_moe in moe.layers],
            "moe_router_topk": moe.experts_per_token,
            "moe_router_dtype": "fp32",
            "moe_router_load_balancing_type": "none",
        }
    )


def _shared_fields(shared: SharedExpert | None) -> dict[str, Any]:
    if shared is None:
        return {}
    return {
        "moe_shared_expert_intermediate_size": shared.ffn_size,
        "moe_shared_expert_gate": shared.has_gate,
    }


def _routing_fields(moe: MoeSpec) -> dict[str, Any]:
    factor = moe.softmax_factor
    if moe.routing is None:
        return {
            # Softmax over the chosen experts is softmax over all, scaled to sum to 1.
            "moe_router_pre_softmax": not moe.is_renormalised,
            "moe_router_topk_scaling_factor": None if factor == 1 else factor,
        }
    has_groups = moe.routing.num_groups > 1
    return {
        "moe_router_score_function": "sigmoid",
        "moe_router_topk_scaling_factor": moe.routing.scale,
        "moe_router_num_groups": moe.routing.num_groups if has_groups else None,
        "moe_router_group_topk": moe.routing.groups_per_token if has_groups else None,
        "moe_router_enable_expert_bias": True,
        # The load of a few thousand problems says nothing of that of pre-training.
        "moe_router_bias_update_rate": 0.0,
    }


def build_chunks(
    spec: ModelSpec,
    config: TransformerConfig,
    parallel: Parallel,
    platform: Platform,
    *,
    overlap_grad_reduce: bool,
    overlap_param_gather: bool,
) -> list[DistributedDataParallel]:
    """Build this rank's pipeline stage with uninitialised weights on the platform's device.

    One chunk, or ``vpp`` of them, each wrapped for data parallelism.
    """
    ddp_config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=True,
        overlap_grad_reduce=overlap_grad_reduce,
        overlap_param_gather=overlap_param_gather,
        # The optimiser looks at the reduced gradient, and skips the step; see optimizer.take_step.
        check_for_nan_in_grad=False,
    )
    layout = parallel.layout
    return [
        DistributedDataParallel(
            config=config,
            ddp_config=ddp_config,
            module=_build_chunk(
                spec, config, parallel, platform, vp_stage=None if layout.vpp == 1 else chunk
            ),
            # Later chunks finish their backward pass first; one bucket each keeps their order.
            disable_bucketing=chunk > 0,
        )
        for chunk in range(layout.vpp)
    ]


def build_frozen_chunks(
    spec: ModelSpec, config: TransformerConfig, parallel: Parallel, platform: Platform
) -> list[GPTModel]:
    """Build this rank's stage as ``build_chunks`` does, to be read only: without gradients."""
    stages = [None] if parallel.layout.vpp == 1 else list(range(parallel.layout.vpp))
    chunks = [_build_chunk(spec, config, parallel, platform, vp_stage=stage) for stage in stages]
    return [chunk.requires_grad_(False) for chunk in chunks]


def _build_chunk(
    spec: ModelSpec,
    config: TransformerConfig,
    parallel: Parallel,
    platform: Platform,
    *,
    vp_stage: int | None,
) -> GPTModel:
    layout = parallel.layout
    is_first_chunk = vp_stage in (None, 0)
    is_last_chunk = vp_stage in (None, layout.vpp - 1)
    block = platform.block_spec(config, vp_stage=vp_stage)
    if spec.has_sandwich_norms:
        normalise_branches(block)
    if spec.local_rope_theta is not None:
        rotate_by_layer(block)
    model = _PolicyModel(
        config,
        block,
        vocab_size=padded_vocab_size(spec.vocab_size, tp_size=layout.tp),
        max_sequence_length=spec.max_positions,
        pre_process=parallel.pp_rank == 0 and is_first_chunk,
        post_process=parallel.is_last_stage and is_last_chunk,
        position_embedding_type="rope",
        rotary_base=spec.rope_theta,
        rotary_percent=spec.rotary_dim / spec.head_dim,
        share_embeddings_and_output_weights=spec.is_tied,
        parallel_output=True,
        vp_stage=vp_stage,
    ).to(platform.device)
    rotary = model.rotary_pos_emb if spec.latent is None else _share_one_rotary(model)
    set_frequencies(rotary, spec, platform.device)
    if model.pre_process and spec.embedding_scale != 1:
        _scale_embedded(model.embedding, spec.embedding_scale)
    reduce_over_expert_replicas(model, config)
    reduce_expert_biases_as_weights(model)
    add_router_biases_apart(model)
    return _keep_selection_biases(model.to(config.params_dtype))


def _share_one_rotary(model: GPTModel) -> Any:
    """Give all layers one rotary embedding and return it: latent attention makes one for each."""
    attentions = [layer.self_attention for layer in model.decoder.layers]
    rotary = attentions[0].rotary_pos_emb
    for attention in attentions:
        attention.rotary_pos_emb = rotary
    return rotary


def _keep_selection_biases(model: GPTModel) -> GPTModel:
    """Give routers their float32 biases back, before weights are read into them."""
    for module in model.modules():
        if isinstance(module, TopKRouter):
            module._maintain_float32_expert_bias()
    return model


def _scale_embedded(embedding: torch.nn.Module, scale: float) -> None:
    """Multiply embedded tokens; the scale is not rounded to their type before, as in SGLang."""
    embedding.register_forward_hook(lambda _module, _inputs, embedded: embedded * scale)


class _PolicyModel(GPTModel):
    """A GPTModel whose checkpoints hold its weights and nothing of the layers that compute.

    Transformer Engine's layers keep the history of FP8 scales as extra state. Without it one
    checkpoint serves both kinds of layers; the history is made anew within a few steps.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_load_state_dict_post_hook(_forgive_extra_state)

    def sharded_state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return Megatron's state without extra state."""
        state = super().sharded_state_dict(*args, **kwargs)
        return {name: part for name, part in state.items() if not _is_extra(name)}


def _forgive_extra_state(_: Any, keys: Any) -> None:
    """Let a strict load pass without it; torch reads what the hook leaves in ``keys``."""
    keys.missing_keys[:] = [name for name in keys.missing_keys if not _is_extra(name)]


def _is_extra(name: str) -> bool:
    """Whether it is extra state; experts that are one module number theirs."""
    return name.rstrip("0123456789").endswith("_extra_state")


def _leave_uninitialised(weight: torch.Tensor) -> torch.Tensor:
    return weight
