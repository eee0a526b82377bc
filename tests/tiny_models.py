"""Tiny random models of every family, made with transformers: what the learner must agree with."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

BASE: dict[str, Any] = {
    "vocab_size": 61,  # not divisible by 2: the vocabulary is padded
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,  # not hidden / heads
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}
TIED = {"tie_word_embeddings": True}
MIXTRAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
QWEN2_MOE = {
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
}
GLM4_MOE = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.7,
}
GEMMA3 = {
    "tie_word_embeddings": True,
    "sliding_window": 12,
    "sliding_window_pattern": 2,
    "query_pre_attn_scalar": 20,  # not the head dimension
}
GPT_OSS = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 7}
QWEN3_MOE = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24}
DEEPSEEK = {
    "num_key_value_heads": None,
    "head_dim": 8,  # transformers' word for the part that is rotated
    "kv_lora_rank": 20,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 14,  # neither that of a query nor a part of it
    "n_routed_experts": 8,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
}
# transformers passes over how experts are chosen; servers do not.
DEEPSEEK_V2 = DEEPSEEK | {
    "q_lora_rank": None,
    "num_experts_per_tok": 3,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "greedy",
    "scoring_func": "softmax",
}
DEEPSEEK_V3 = DEEPSEEK | {
    "q_lora_rank": 18,
    "num_experts_per_tok": 4,
    "n_group": 4,
    "topk_group": 2,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
}


def rope(kind: str, **fields: Any) -> dict[str, Any]:
    """Return the rope_parameters of transformers 5."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **fields}}


LLAMA3 = rope(
    "llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=32)
YARN_STATED = rope(
    "yarn",
    factor=2.5,
    original_max_position_embeddings=48,
    attention_factor=1.3,
    beta_fast=16.0,
    beta_slow=2.0,
    truncate=False,
)
YARN_OF_LATENTS = rope(
    "yarn",
    factor=40.0,
    original_max_position_embeddings=32,
    mscale=0.707,
    mscale_all_dim=0.707,
)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama tied, llama3": ("Llama", TIED | LLAMA3),
    "llama, linear": ("Llama", rope("linear", factor=3.0)),
    "llama without groups": ("Llama", {"num_key_value_heads": None, "head_dim": None}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral tied, window": ("Mistral", TIED | {"sliding_window": 7}),
    "mistral, yarn": ("Mistral", {"sliding_window": None} | YARN_STATED),
    "qwen2": ("Qwen2", {}),
    "qwen2 tied, yarn": ("Qwen2", TIED | YARN),
    "qwen2, window in the last layers": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3", {}),
    "qwen3 tied, yarn": ("Qwen3", TIED | YARN_STATED),
    "qwen3, window by layer": (
        "Qwen3",
        {
            "use_sliding_window": True,
            "sliding_window": 12,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "mixtral": ("Mixtral", MIXTRAL),
    "mixtral tied, window": ("Mixtral", MIXTRAL | TIED | {"sliding_window": 9}),
    "qwen3 moe": ("Qwen3Moe", QWEN3_MOE | {"norm_topk_prob": True}),
    "qwen3 moe tied, not renormalised, dense layer, yarn": (
        "Qwen3Moe",
        QWEN3_MOE | TIED | YARN | {"norm_topk_prob": False, "mlp_only_layers": [1]},
    ),
    "qwen2 moe": ("Qwen2Moe", QWEN2_MOE),
    "qwen2 moe tied, renormalised, dense layer, no bias": (
        "Qwen2Moe",
        QWEN2_MOE | TIED | {"norm_topk_prob": True, "mlp_only_layers": [0], "qkv_bias": False},
    ),
    "glm4 moe": ("Glm4Moe", GLM4_MOE),
    "glm4 moe, biases, qk norm, two shared experts, groups": (
        "Glm4Moe",
        GLM4_MOE
        | {"attention_bias": True, "use_qk_norm": True, "n_shared_experts": 2}
        | {"n_group": 4, "topk_group": 2},
    ),
    "deepseek v2 moe": ("DeepseekV2", DEEPSEEK_V2 | YARN_OF_LATENTS),
    "deepseek v2 moe, latent queries, scaled, norm eps": (
        "DeepseekV2",
        DEEPSEEK_V2 | {"q_lora_rank": 18, "routed_scaling_factor": 2.5, "rms_norm_eps": 1e-2},
    ),
    "deepseek v3 moe": ("DeepseekV3", DEEPSEEK_V3 | YARN_OF_LATENTS),
    "deepseek v3 moe tied, plain queries, one group, two shared experts": (
        "DeepseekV3",
        DEEPSEEK_V3
        | TIED
        | {"q_lora_rank": None, "n_group": 1, "topk_group": 1, "n_shared_experts": 2}
        | {"routed_scaling_factor": 1.7, "rms_norm_eps": 1e-5},
    ),
    "gpt oss moe": ("GptOss", GPT_OSS),
    "gpt oss moe tied, no yarn, no groups, wide experts": (
        "GptOss",
        GPT_OSS
        | TIED
        | rope("default")
        | {"num_key_value_heads": 4, "intermediate_size": 96}
        | {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
    ),
    "qwen3 moe, every second layer, window": (
        "Qwen3Moe",
        QWEN3_MOE | {"decoder_sparse_step": 2, "use_sliding_window": True, "sliding_window": 6},
    ),
    "glm4": ("Glm4", {}),
    "glm4 tied, no bias, a quarter rotated": (
        "Glm4",
        TIED | {"attention_bias": False, "partial_rotary_factor": 0.25},
    ),
    "gemma3": ("Gemma3Text", GEMMA3),
    "gemma3, linear, window in the first layer": (
        "Gemma3Text",
        {
            "tie_word_embeddings": True,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            "rope_scaling": {"rope_type": "linear", "factor": 3.0},
        },
    ),
}


def tiny_model(case: str, **changes: Any) -> Any:
    """Return transformers' model of a case, every weight random, biases and norms included."""
    import transformers

    prefix, fields = CASES[case]
    config = getattr(transformers, f"{prefix}Config")(**BASE | fields | changes)
    model = getattr(transformers, f"{prefix.removesuffix('Text')}ForCausalLM")(config).eval()
    is_gemma = prefix.startswith("Gemma")
    if prefix.startswith("Deepseek"):
        _compute_latents_as_released(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, param in model.named_parameters():
            noise = 0.3 * torch.randn(param.shape, generator=generator)
            if is_gemma and "embed" in name:
                noise *= 0.3  # it is scaled and tied: else every token is thought to be repeated
            if name.endswith("gate_up_proj_bias"):
                noise *= 20  # some beyond the limit at which gpt-oss clamps
            # Gemma's norms scale by 1 + their weight.
            param.copy_(1 + noise if "norm" in name and not is_gemma else noise)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
    return model


def _compute_latents_as_released(model: Any) -> None:
    """Have transformers compute two numbers as servers do.

    The norms of latents take ``rms_norm_eps`` like the others, where transformers has 1e-6. Scores
    of DeepSeek-V2 are scaled by YaRN, as in the release's own code and as transformers does for V3.
    """
    rope = model.config.rope_parameters
    mscale = 1.0
    if rope["rope_type"] == "yarn":
        mscale += 0.1 * rope["mscale_all_dim"] * math.log(rope["factor"])
    for layer in model.model.layers:
        attention = layer.self_attn
        attention.scaling = attention.qk_head_dim**-0.5 * mscale**2
        for name in ("q_a_layernorm", "kv_a_layernorm"):
            if hasattr(attention, name):
                getattr(attention, name).variance_epsilon = model.config.rms_norm_eps


def write_model(case: str, folder: Path, **changes: Any) -> Path:
    """Save a case, with some fields of its config changed, as a folder and return it."""
    tiny_model(case, **changes).save_pretrained(folder)
    return folder


def tensor_on_disk(in_memory: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """Return the tensor that transformers saves as ``name`` out of those its model holds.

    transformers 5 holds the experts of a layer in one tensor, and gate and up projection in one.
    """
    if name in in_memory:  # gpt-oss has them together on disk, too
        return in_memory[name]
    prefix, is_expert, rest = name.replace("block_sparse_moe", "mlp").partition(".experts.")
    if not is_expert:
        return in_memory[prefix]
    expert, module, _ = rest.split(".")
    if module in ("down_proj", "w2"):
        return in_memory[f"{prefix}.experts.down_proj"][int(expert)]
    gate, up = in_memory[f"{prefix}.experts.gate_up_proj"][int(expert)].chunk(2)
    return gate if module in ("gate_proj", "w1") else up
