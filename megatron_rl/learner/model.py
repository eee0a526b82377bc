"""A Megatron GPTModel from a model description, wrapped for data parallelism."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer import TransformerConfig

from megatron_rl.conversion.families import ModelSpec
from megatron_rl.conversion.layouts import padded_vocab_size
from megatron_rl.errors import ConfigError
from megatron_rl.learner.parallel import Parallel
from megatron_rl.learner.platform import Platform

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
            "qk_layernorm",
            "normalization",
            "gated_linear_unit",
        ],
        "config.json of model.path",
    ),
    **dict.fromkeys(["params_dtype", "pipeline_dtype", "bf16"], "model.dtype"),
    "tensor_model_parallel_size": "learner.parallel.tp",
    "sequence_parallel": "learner.parallel.sp",
    "calculate_per_token_loss": "the learner, whose token weights are already normalised",
}


def transformer_config(
    spec: ModelSpec, parallel: Parallel, *, dtype: torch.dtype, overrides: Mapping[str, Any]
) -> TransformerConfig:
    """Describe the model to Megatron; ``overrides`` are TransformerConfig fields of the user."""
    fields: dict[str, Any] = {
        "num_layers": spec.num_layers,
        "hidden_size": spec.hidden_size,
        "ffn_hidden_size": spec.ffn_size,
        "num_attention_heads": spec.num_heads,
        "num_query_groups": spec.num_groups,
        "kv_channels": spec.head_dim,
        "layernorm_epsilon": spec.norm_eps,
        "qk_layernorm": spec.has_qk_norm,
        "normalization": "RMSNorm",
        "gated_linear_unit": True,
        "activation_func": F.silu,
        "add_bias_linear": False,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        "bf16": dtype == torch.bfloat16,
        "tensor_model_parallel_size": parallel.tp_size,
        "sequence_parallel": parallel.sp,
        # Weights are always read in, so that every layout starts from the same model. Megatron's
        # initialisation still runs, emptily: it is what marks parameters as tensor-parallel, and
        # unmarked ones are counted once too few in the gradient norm.
        "init_method": _leave_uninitialised,
        "output_layer_init_method": _leave_uninitialised,
        "embedding_init_method": _leave_uninitialised,
        # Data-parallel gradients are summed, because token weights are already normalised.
        "calculate_per_token_loss": True,
        "variable_seq_lengths": True,
        "moe_token_dispatcher_type": "alltoall",
    }
    try:
        return TransformerConfig(**(fields | dict(overrides)))
    except (ValueError, AssertionError) as error:
        raise ConfigError(f"learner.megatron: TransformerConfig refuses: {error}") from error


def check_overrides(overrides: Mapping[str, Any]) -> None:
    """Raise ConfigError for a key of [learner.megatron] that is no field or is set elsewhere."""
    fields = [field.name for field in dataclasses.fields(TransformerConfig)]
    for key in overrides:
        if key in _SET_ELSEWHERE:
            raise ConfigError(f"learner.megatron.{key} is set by {_SET_ELSEWHERE[key]}; remove it")
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            hint = f"; did you mean learner.megatron.{close[0]}?" if close else ""
            raise ConfigError(
                f"unknown key learner.megatron.{key}: TransformerConfig of the installed "
                f"megatron-core has no such field{hint}"
            )


def build_model(
    spec: ModelSpec,
    config: TransformerConfig,
    platform: Platform,
    *,
    overlap_grad_reduce: bool,
    overlap_param_gather: bool,
) -> DistributedDataParallel:
    """Build the model with uninitialised weights on the platform's device."""
    model = GPTModel(
        config,
        platform.block_spec(config),
        vocab_size=padded_vocab_size(spec.vocab_size, tp_size=config.tensor_model_parallel_size),
        max_sequence_length=spec.max_positions,
        position_embedding_type="rope",
        rotary_base=spec.rope_theta,
        share_embeddings_and_output_weights=spec.is_tied,
        parallel_output=True,
    ).to(platform.device)
    if config.bf16:
        model = model.bfloat16()
    ddp_config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=True,
        overlap_grad_reduce=overlap_grad_reduce,
        overlap_param_gather=overlap_param_gather,
        check_for_nan_in_grad=True,
    )
    return DistributedDataParallel(config=config, ddp_config=ddp_config, module=model)


def _leave_uninitialised(weight: torch.Tensor) -> torch.Tensor:
    return weight
