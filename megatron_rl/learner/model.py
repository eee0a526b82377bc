"""A Megatron GPTModel from a model description, wrapped for data parallelism."""

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


def check_divisible(spec: ModelSpec, *, tp_size: int) -> None:
    """Raise ConfigError when tensor parallelism cannot cut this model."""
    for name, size in (
        ("attention heads", spec.num_heads),
        ("key/value heads", spec.num_groups),
        ("feed-forward size", spec.ffn_size),
    ):
        if size % tp_size:
            legal = [n for n in range(1, size + 1) if size % n == 0]
            raise ConfigError(
                f"learner.parallel.tp ({tp_size}) must divide the model's {name} ({size}); "
                f"legal: {', '.join(map(str, legal[:8]))}"
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
