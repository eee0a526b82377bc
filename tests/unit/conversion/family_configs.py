"""Small config.json of every family, with every field that is read."""

import pytest

QWEN3 = {
    "model_type": "qwen3",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 128,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
}
LLAMA = {**QWEN3, "model_type": "llama"}
MISTRAL = {**QWEN3, "model_type": "mistral", "sliding_window": None}
QWEN2 = {**QWEN3, "model_type": "qwen2"}
MIXTRAL = {**MISTRAL, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
QWEN3_MOE = {
    **QWEN3,
    "model_type": "qwen3_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
}
QWEN2_MOE = {
    **QWEN3_MOE,
    "model_type": "qwen2_moe",
    "shared_expert_intermediate_size": 48,
    "qkv_bias": True,
}
GLM4_MOE = {
    **{key: value for key, value in QWEN3_MOE.items() if key != "num_experts"},
    "model_type": "glm4_moe",
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "first_k_dense_replace": 0,
    "routed_scaling_factor": 2.5,
    "n_group": 1,
    "topk_group": 1,
    "use_qk_norm": True,
    "attention_bias": True,
    "partial_rotary_factor": 0.5,
}
GLM4 = {**QWEN3, "model_type": "glm4", "attention_bias": True, "partial_rotary_factor": 0.5}
GEMMA3 = {
    **{key: value for key, value in QWEN3.items() if key != "hidden_act"},
    "model_type": "gemma3_text",
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 24,
    "sliding_window": 8,
    "sliding_window_pattern": 2,
    "rope_local_base_freq": 10000.0,
    "tie_word_embeddings": True,
}
GPT_OSS = {
    **QWEN3,
    "model_type": "gpt_oss",
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "attention_bias": True,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
}
DEEPSEEK_V2 = {
    **{key: value for key, value in QWEN3_MOE.items() if key not in ("num_experts", "head_dim")},
    "model_type": "deepseek_v2",
    "num_key_value_heads": 4,
    "kv_lora_rank": 24,
    "q_lora_rank": None,
    "qk_nope_head_dim": 20,
    "qk_rope_head_dim": 12,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "first_k_dense_replace": 0,
    "routed_scaling_factor": 1.5,
    "norm_topk_prob": False,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "greedy",
}
DEEPSEEK_V3 = {
    **{key: value for key, value in DEEPSEEK_V2.items() if key != "topk_method"},
    "model_type": "deepseek_v3",
    "q_lora_rank": 18,
    "norm_topk_prob": True,
}
CONFIGS = [
    *(LLAMA, MISTRAL, QWEN2, QWEN3, MIXTRAL, QWEN3_MOE, QWEN2_MOE, GLM4_MOE),
    *(GLM4, GEMMA3, DEEPSEEK_V2, DEEPSEEK_V3, GPT_OSS),
]
UNSTACKED = [config for config in CONFIGS if config is not GPT_OSS]
"""Families whose experts, if any, have tensors of their own."""
every_family = pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c["model_type"])
