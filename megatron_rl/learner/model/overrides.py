"""Overrides of Megatron's TransformerConfig in [learner.megatron], and which are refused."""

import dataclasses
import difflib
import enum
import typing
from collections.abc import Mapping
from typing import Any, Literal

from megatron.core.transformer import TransformerConfig
from pydantic import ConfigDict, TypeAdapter, ValidationError

from megatron_rl.errors import ConfigError
from megatron_rl.learner.device.precision import FP8_FIELDS

_SET_ELSEWHERE = {
    **dict.fromkeys(
        [
            "num_layers",
            "hidden_size",
            "ffn_hidden_size",
            "num_attention_heads",
            "num_query_groups",
            "kv_channels",
            "layernorm_epsilon",
            "layernorm_zero_centered_gamma",
            "apply_residual_connection_post_layernorm",
            "qk_layernorm",
            "qk_l2_norm",
            "normalization",
            "gated_linear_unit",
            "glu_linear_offset",
            "activation_func",
            "activation_func_clamp_value",
            "add_bias_linear",
            "add_qkv_bias",
            "rotary_interleaved",
            "no_rope_freq",
            "softmax_scale",
            "softmax_type",
            "attention_output_gate",
            "multi_latent_attention",
            "experimental_attention_variant",
            "heterogeneous_block_specs",
            "is_hybrid_model",
            "window_size",
            "window_attn_skip_freq",
            "num_moe_experts",
            "moe_ffn_hidden_size",
            "moe_latent_size",
            "moe_layer_freq",
            "moe_shared_expert_intermediate_size",
            "moe_shared_expert_gate",
            "moe_router_topk",
            "moe_router_topk_limited_devices",
            "moe_router_num_groups",
            "moe_router_group_topk",
            "moe_router_pre_softmax",
            "moe_router_score_function",
            "moe_router_topk_scaling_factor",
            "moe_apply_probs_on_input",
        ],
        "config.json of model.path",
    ),
    **dict.fromkeys(
        ["params_dtype", "pipeline_dtype", "bf16", "fp16", "enable_autocast", "autocast_dtype"],
        "learner.precision",
    ),
    **{field: f"learner.fp8.{key}" for key, field in FP8_FIELDS.items()},
    **dict.fromkeys(
        ["fp8_param", "fp8_quantizer_factory", "fp4", "fp4_param", "fp4_recipe", "quant_recipe"],
        "the learner, which reads and publishes weights that are not quantised",
    ),
    "tensor_model_parallel_size": "learner.parallel.tp",
    "sequence_parallel": "learner.parallel.sp",
    "pipeline_model_parallel_size": "learner.parallel.pp",
    "virtual_pipeline_model_parallel_size": "learner.parallel.vpp",
    "context_parallel_size": "learner.parallel.cp",
    "expert_model_parallel_size": "learner.parallel.ep",
    "expert_tensor_parallel_size": "learner.parallel.etp",
    **dict.fromkeys(
        [
            "pipeline_model_parallel_layout",
            "num_layers_in_first_pipeline_stage",
            "num_layers_in_last_pipeline_stage",
            "account_for_embedding_in_pipeline_split",
            "account_for_loss_in_pipeline_split",
            "microbatch_group_size_per_vp_stage",
        ],
        "the learner, which cuts layers into equal stages (learner.parallel.pp and vpp)",
    ),
    **dict.fromkeys(
        ["overlap_p2p_comm", "batch_p2p_comm"],
        "the learner: an interleaved pipeline with batched sends computes a wrong loss",
    ),
    "deterministic_mode": "learner.deterministic",
    "variable_seq_lengths": "the learner, whose rows vary in length",
    "calculate_per_token_loss": "the learner, whose token weights are already normalised",
    **dict.fromkeys(
        ["grad_scale_func", "finalize_model_grads_func", "no_sync_func", "grad_sync_func"],
        "the learner",
    ),
    **dict.fromkeys(
        ["init_method", "output_layer_init_method", "embedding_init_method", "init_method_std"],
        "model.path or the seed, from which every weight is read",
    ),
    **dict.fromkeys(
        ["perform_initialization", "use_cpu_initialization", "init_model_with_meta_device"],
        "the learner: Megatron's initialisation is what marks parameters as tensor-parallel",
    ),
    **dict.fromkeys(
        ["moe_grouped_gemm", "moe_use_legacy_grouped_gemm"],
        "the learner, which has one product for all experts where Transformer Engine does",
    ),
    "bias_activation_fusion": "the learner: without it more activations are kept than planned",
}

_NOT_OFFERED = {
    **dict.fromkeys(
        ["hidden_dropout", "attention_dropout", "moe_input_jitter_eps"],
        "log-probs of the policy must be those that the generator samples from",
    ),
    **dict.fromkeys(
        [
            "moe_expert_capacity_factor",
            "moe_pad_expert_input_to_capacity",
            "moe_token_dropping",
            "moe_router_force_load_balancing",
            "moe_enable_routing_replay",
        ],
        "experts of a token must be those that the generator uses",
    ),
    **dict.fromkeys(
        [
            "moe_router_load_balancing_type",
            "moe_aux_loss_coeff",
            "moe_z_loss_coeff",
            "moe_router_enable_expert_bias",
            "moe_router_bias_update_rate",
        ],
        "Megatron balances experts within one microbatch and weighs that by its tokens, so packing "
        "and layout would change the loss",
    ),
    **dict.fromkeys(
        ["fp8_dot_product_attention", "fp8_multi_head_attention"],
        "Transformer Engine has no attention of packed rows in FP8",
    ),
    **dict.fromkeys(
        ["mtp_num_layers", "mtp_loss_scaling_factor", "qk_clip", "log_max_attention_logit"],
        "the loss is that of the policy alone",
    ),
    **dict.fromkeys(
        ["hybrid_context_parallel", "hierarchical_context_parallel_sizes"],
        "rows are cut zig-zag over all of learner.parallel.cp",
    ),
}


def check_overrides(overrides: Mapping[str, Any]) -> None:
    """Raise ConfigError for a key of [learner.megatron] that is not a user's, or a wrong value."""
    hints = typing.get_type_hints(TransformerConfig)
    names = [field.name for field in dataclasses.fields(TransformerConfig)]
    for key, value in overrides.items():
        where = f"learner.megatron.{key}"
        if key in _SET_ELSEWHERE:
            raise ConfigError(f"{where} is set by {_SET_ELSEWHERE[key]}; remove it")
        if key in _NOT_OFFERED:
            raise ConfigError(f"{where} is not offered: {_NOT_OFFERED[key]}; remove it")
        if key not in names:
            offered = [name for name in names if name not in _SET_ELSEWHERE | _NOT_OFFERED]
            close = difflib.get_close_matches(key, offered, n=1)
            hint = f"; did you mean learner.megatron.{close[0]}?" if close else ""
            raise ConfigError(
                f"unknown key {where}: TransformerConfig of the installed "
                f"megatron-core has no such field{hint}"
            )
        _check_type(where, value, hints[key])


def as_fields(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the overrides as TransformerConfig takes them: members of enumerations by name."""
    hints = typing.get_type_hints(TransformerConfig)
    return {
        key: hints[key][value] if isinstance(value, str) and _is_enum(hints[key]) else value
        for key, value in overrides.items()
    }


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, enum.Enum)


def _check_type(where: str, value: Any, hint: Any) -> None:
    """Megatron takes any type for any field, and fails, or not, far from here."""
    if _is_enum(hint):
        hint = Literal[tuple(member.name for member in hint)]
    settings = ConfigDict(arbitrary_types_allowed=True, strict=True)
    try:
        TypeAdapter(hint, config=settings).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ConfigError(f"{where} = {value!r}: {reason}") from error
