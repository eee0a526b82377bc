"""Transformer layers for Megatron-Core made of torch only.

They carry Transformer Engine's parameter names (``linear_qkv.layer_norm_weight``, ...), so one
checkpoint serves machines with and without it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import multi_latent_attention
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.moe.experts import SequentialMLP
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
from megatron.core.transformer.moe.shared_experts import SharedExpertMLP
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import (
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from megatron.core.transformer.transformer_layer import (
    TransformerLayer,
    TransformerLayerSubmodules,
    get_transformer_layer_offset,
)
from torch import Tensor

from megatron_rl.learner.device.attention import TorchCoreAttention


def rms_norm(x: Tensor, weight: Tensor, *, eps: float, is_centred: bool) -> Tensor:
    """Normalise over the last dimension and scale by the weight, or by 1 + weight if centred."""
    if not is_centred:
        return F.rms_norm(x, (x.size(-1),), weight, eps)
    # Near 1 a bfloat16 has few digits.
    return F.rms_norm(x.float(), (x.size(-1),), 1 + weight.float(), eps).type_as(x)


class TorchRMSNorm(torch.nn.RMSNorm):
    """RMSNorm that works under sequence parallelism, which Megatron's own torch norm refuses."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.config = config
        # Megatron sums the gradients of parameters marked like this over the TP group.
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        is_centred = self.config.layernorm_zero_centered_gamma
        return rms_norm(x, self.weight, eps=self.eps, is_centred=is_centred)


class TorchLayerNormColumnParallelLinear(ColumnParallelLinear):
    """RMSNorm followed by a column-parallel linear, as TELayerNormColumnParallelLinear is."""

    def __init__(self, input_size: int, output_size: int, *, config: Any, **kwargs: Any) -> None:
        super().__init__(input_size, output_size, config=config, **kwargs)
        self.layer_norm_weight = torch.nn.Parameter(
            torch.ones(input_size, dtype=config.params_dtype)
        )
        self.layer_norm_weight.sequence_parallel = config.sequence_parallel
        self.eps = config.layernorm_epsilon
        self.is_centred = config.layernorm_zero_centered_gamma

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Normalise, then project."""
        weight = self.layer_norm_weight
        normed = rms_norm(x, weight, eps=self.eps, is_centred=self.is_centred)
        return super().forward(normed, *args, **kwargs)


class TorchDuplicatedLinear(torch.nn.Module):
    """Linear whose whole weight is on every tensor-parallel rank, as TELinear's "duplicated" is."""

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        parallel_mode: str,
        config: Any,
        bias: bool,
        **_: Any,
    ) -> None:
        super().__init__()
        assert parallel_mode == "duplicated" and not bias, (parallel_mode, bias)
        self.weight = torch.nn.Parameter(
            torch.empty(output_size, input_size, dtype=config.params_dtype)
        )
        # Each rank sees its own tokens of a sequence.
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Project; the second value is the bias, which there is none of."""
        return F.linear(x, self.weight), None


class TorchExpertOutputLinear(RowParallelLinear):
    """Row-parallel linear of an expert whose result, with a bias to be added, is its own memory.

    Megatron adds an expert's bias in place, which torch refuses for a view of what a custom
    function has returned.
    """

    def forward(self, x: Tensor) -> Any:
        """Project; return the result and the bias that is not added yet."""
        output, bias = super().forward(x)
        return output if bias is None else output.clone(), bias


def torch_block_spec(config: Any, *, vp_stage: int | None) -> TransformerBlockSubmodules:
    """Return the block of decoder layers of one chunk for a TransformerConfig.

    ``moe_layer_freq`` lists per layer of the whole model whether it is a mixture of experts.
    """
    first = get_transformer_layer_offset(config, vp_stage=vp_stage)
    layers = range(first, first + get_num_layers_to_build(config, vp_stage))
    specs = [
        _layer_spec(config, is_moe=bool(config.num_moe_experts and config.moe_layer_freq[layer]))
        for layer in layers
    ]
    return TransformerBlockSubmodules(layer_specs=specs, layer_norm=TorchRMSNorm)


def attend_with_torch(block: TransformerBlockSubmodules) -> None:
    """Put torch's attention into the layers of a block whose other parts stay as they are."""
    for layer in block.layer_specs:
        layer.submodules.self_attention.submodules.core_attention = TorchCoreAttention


def _layer_spec(config: Any, *, is_moe: bool) -> ModuleSpec:
    has_latents = config.multi_latent_attention
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            # What is made from a latent is projected twice, with a norm between the two.
            input_layernorm=TorchRMSNorm if has_latents else IdentityOp,
            self_attention=_latent_spec() if has_latents else _attention_spec(config),
            self_attn_bda=get_bias_dropout_add,
            # A router looks at the same normalised input as its experts.
            pre_mlp_layernorm=TorchRMSNorm if is_moe else IdentityOp,
            mlp=_experts_spec() if is_moe else _dense_spec(),
            mlp_bda=get_bias_dropout_add,
        ),
    )


def _attention_spec(config: Any) -> ModuleSpec:
    qk_norm = TorchRMSNorm if config.qk_layernorm else IdentityOp
    return ModuleSpec(
        module=SelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=TorchLayerNormColumnParallelLinear,
            core_attention=TorchCoreAttention,
            linear_proj=RowParallelLinear,
            q_layernorm=qk_norm,
            k_layernorm=qk_norm,
        ),
    )


def _latent_spec() -> ModuleSpec:
    # The only class that Megatron leaves whole on every rank: TorchDuplicatedLinear here, where
    # Transformer Engine is installed its own.
    duplicated = multi_latent_attention.TELinear
    return ModuleSpec(
        module=multi_latent_attention.MLASelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=multi_latent_attention.MLASelfAttentionSubmodules(
            linear_q_proj=ColumnParallelLinear,
            linear_q_down_proj=duplicated,
            linear_q_up_proj=TorchLayerNormColumnParallelLinear,
            linear_kv_down_proj=duplicated,
            linear_kv_up_proj=TorchLayerNormColumnParallelLinear,
            core_attention=TorchCoreAttention,
            linear_proj=RowParallelLinear,
            q_layernorm=IdentityOp,
            kv_layernorm=IdentityOp,
        ),
    )


def _dense_spec() -> ModuleSpec:
    return ModuleSpec(
        module=MLP,
        submodules=MLPSubmodules(
            linear_fc1=TorchLayerNormColumnParallelLinear, linear_fc2=RowParallelLinear
        ),
    )


def _experts_spec() -> ModuleSpec:
    experts = ModuleSpec(
        module=SequentialMLP,
        submodules=MLPSubmodules(
            linear_fc1=ColumnParallelLinear, linear_fc2=TorchExpertOutputLinear
        ),
    )
    shared = ModuleSpec(
        module=SharedExpertMLP,
        submodules=MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear),
    )
    return ModuleSpec(
        module=MoELayer, submodules=MoESubmodules(experts=experts, shared_experts=shared)
    )
