"""Policy of the GPU tests in transformers: what the host computes in float32."""

import torch
import transformers

from megatron_rl.programs.gpu_stages.learning.policy import SHAPE


def reference_model() -> transformers.Qwen3ForCausalLM:
    """Return the policy in float32 on the host, made up from a fixed seed."""
    torch.manual_seed(0)
    config = transformers.Qwen3Config(**_fields())
    return transformers.Qwen3ForCausalLM(config).float().eval()


def _fields() -> dict[str, object]:
    config = SHAPE.config(max_positions=512)
    ours = ("model_type", "architectures", "rope_theta", "attention_bias", "hidden_act")
    return {name: value for name, value in config.items() if name not in ours}
