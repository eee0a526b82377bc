"""Configs as released models have them are understood, and count the parameters of their names."""

import json
import math
import re
from pathlib import Path

import pytest

from megatron_rl.conversion.families import model_spec
from megatron_rl.conversion.families.shapes import tensor_shapes
from megatron_rl.errors import ModelError
from megatron_rl.parallelism.parameters import num_active_parameters, num_parameters

RELEASED = Path(__file__).parents[2] / "released"
LLAMA_3_1_8B, MISTRAL_SMALL_24B, LLAMA_3_3_70B, QWEN_3_30B_A3B = (
    json.loads((RELEASED / name / "config.json").read_text())
    for name in ("Llama-3.1-8B", "Mistral-Small-24B", "Llama-3.3-70B", "Qwen3-30B-A3B")
)
COMMON = {
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
}
MISTRAL_7B = COMMON | {
    "architectures": ["MistralForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}
MIXTRAL_8X7B = MISTRAL_7B | {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
    "output_router_logits": False,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.02,
    "sliding_window": None,
}
QWEN_2_5_7B = COMMON | {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 131072,
    "max_window_layers": 28,
    "model_type": "qwen2",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "use_mrope": False,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
QWEN_3_4B = COMMON | {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 128,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "max_position_embeddings": 262144,
    "max_window_layers": 36,
    "model_type": "qwen3",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 5000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}

QWEN_1_5_MOE_A2_7B = COMMON | {
    "architectures": ["Qwen2MoeForCausalLM"],
    "decoder_sparse_step": 1,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "max_position_embeddings": 8192,
    "max_window_layers": 21,
    "model_type": "qwen2_moe",
    "moe_intermediate_size": 1408,
    "norm_topk_prob": False,
    "num_attention_heads": 16,
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 16,
    "output_router_logits": False,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.001,
    "shared_expert_intermediate_size": 5632,
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
GLM_4_5_AIR = COMMON | {
    "architectures": ["Glm4MoeForCausalLM"],
    "attention_bias": True,
    "first_k_dense_replace": 1,
    "head_dim": 128,
    "hidden_size": 4096,
    "intermediate_size": 10944,
    "max_position_embeddings": 131072,
    "model_type": "glm4_moe",
    "moe_intermediate_size": 1408,
    "n_group": 1,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 96,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 46,
    "num_key_value_heads": 8,
    "num_nextn_predict_layers": 1,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "routed_scaling_factor": 1.0,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "use_qk_norm": False,
    "vocab_size": 151552,
}

GLM_4_9B_0414 = COMMON | {
    "architectures": ["Glm4ForCausalLM"],
    "attention_bias": True,
    "eos_token_id": [151329, 151336, 151338],
    "head_dim": 128,
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "max_position_embeddings": 32768,
    "model_type": "glm4",
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "pad_token_id": 151329,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vocab_size": 151552,
}
GLM_4_32B_0414 = GLM_4_9B_0414 | {
    "attention_bias": False,
    "hidden_size": 6144,
    "intermediate_size": 23040,
    "num_attention_heads": 48,
    "num_hidden_layers": 61,
}
GEMMA_3_1B = {key: value for key, value in COMMON.items() if key != "hidden_act"} | {
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attn_logit_softcapping": None,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": [1, 106],
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "vocab_size": 262144,
}
GPT_OSS_20B = {
    "architectures": ["GptOssForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "eos_token_id": 200002,
    "experts_per_token": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2880,
    "initial_context_length": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "max_position_embeddings": 131072,
    "model_type": "gpt_oss",
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "output_router_logits": False,
    "pad_token_id": 199999,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "router_aux_loss_coef": 0.9,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "transformers_version": "4.55.0.dev0",
    "use_cache": True,
    "vocab_size": 201088,
}
"""As released, but for quantization_config, which the dequantised folder lacks."""
GPT_OSS_120B = GPT_OSS_20B | {
    "layer_types": ["sliding_attention", "full_attention"] * 18,
    "num_hidden_layers": 36,
    "num_local_experts": 128,
}
MXFP4 = {
    "modules_to_not_convert": [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ],
    "quant_method": "mxfp4",
}

SMOLLM_2_135M = COMMON | {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "hidden_size": 576,
    "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536,
    "is_llama_config": True,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_interleaved": False,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "transformers.js_config": {"dtype": "q4"},
    "vocab_size": 49152,
}

DEEPSEEK = COMMON | {
    "attention_bias": False,
    "aux_loss_alpha": 0.001,
    "ep_size": 1,
    "kv_lora_rank": 512,
    "moe_layer_freq": 1,
    "pretraining_tp": 1,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000,
    "seq_aux": True,
    "tie_word_embeddings": False,
    "v_head_dim": 128,
}
YARN_OF_DEEPSEEK = {
    "beta_fast": 32,
    "beta_slow": 1,
    "factor": 40,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096,
    "type": "yarn",
}


def own_code(name):
    return {
        "architectures": [f"{name}ForCausalLM"],
        "auto_map": {
            "AutoConfig": f"configuration_deepseek.{name}Config",
            "AutoModel": f"modeling_deepseek.{name}Model",
            "AutoModelForCausalLM": f"modeling_deepseek.{name}ForCausalLM",
        },
    }


DEEPSEEK_V2_LITE = (
    DEEPSEEK
    | own_code("DeepseekV2")
    | {
        "first_k_dense_replace": 1,
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "max_position_embeddings": 163840,
        "model_type": "deepseek_v2",
        "moe_intermediate_size": 1408,
        "n_group": 1,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "norm_topk_prob": False,
        "num_attention_heads": 16,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 27,
        "num_key_value_heads": 16,
        "q_lora_rank": None,
        "rope_scaling": YARN_OF_DEEPSEEK | {"mscale": 0.707, "mscale_all_dim": 0.707},
        "routed_scaling_factor": 1.0,
        "scoring_func": "softmax",
        "topk_group": 1,
        "topk_method": "greedy",
        "vocab_size": 102400,
    }
)
DEEPSEEK_V2 = DEEPSEEK_V2_LITE | {
    "hidden_size": 5120,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1536,
    "n_group": 8,
    "n_routed_experts": 160,
    "num_attention_heads": 128,
    "num_hidden_layers": 60,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "routed_scaling_factor": 16.0,
    "topk_group": 3,
    "topk_method": "group_limited_greedy",
}
# As converted to bfloat16: the release is quantised to FP8.
DEEPSEEK_V3 = (
    DEEPSEEK
    | own_code("DeepseekV3")
    | {
        "first_k_dense_replace": 3,
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "max_position_embeddings": 163840,
        "model_type": "deepseek_v3",
        "moe_intermediate_size": 2048,
        "n_group": 8,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_attention_heads": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 61,
        "num_key_value_heads": 128,
        "num_nextn_predict_layers": 1,
        "q_lora_rank": 1536,
        "rope_scaling": YARN_OF_DEEPSEEK,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "topk_group": 4,
        "topk_method": "noaux_tc",
        "vocab_size": 129280,
    }
)
MOONLIGHT_16B = DEEPSEEK_V3 | {
    "first_k_dense_replace": 1,
    "hidden_size": 2048,
    "intermediate_size": 11264,
    "max_position_embeddings": 8192,
    "moe_intermediate_size": 1408,
    "n_group": 1,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_attention_heads": 16,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 27,
    "num_key_value_heads": 16,
    "num_nextn_predict_layers": 0,
    "q_lora_rank": None,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 50000.0,
    "routed_scaling_factor": 2.446,
    "topk_group": 1,
    "vocab_size": 163840,
}


@pytest.mark.parametrize(
    ("config", "billions"),
    [
        (SMOLLM_2_135M, 0.1345),
        (LLAMA_3_1_8B, 8.03),
        (MISTRAL_7B, 7.24),
        (MISTRAL_SMALL_24B, 23.57),
        (LLAMA_3_3_70B, 70.55),
        (MIXTRAL_8X7B, 46.7),
        (QWEN_2_5_7B, 7.62),
        (QWEN_3_4B, 4.02),
        (QWEN_3_30B_A3B, 30.5),
        (QWEN_1_5_MOE_A2_7B, 14.3),
        (GLM_4_5_AIR, 106.85),  # without the layer that drafts tokens
        (GLM_4_9B_0414, 9.4),
        (GLM_4_32B_0414, 32.57),
        (GEMMA_3_1B, 1.0),
        (DEEPSEEK_V2_LITE, 15.7),
        (DEEPSEEK_V3, 671.0),
        (MOONLIGHT_16B, 15.96),
        (GPT_OSS_20B, 20.91),
        (GPT_OSS_120B, 116.83),
    ],
)
def test_a_released_model_has_the_parameters_it_is_known_for(config, billions):
    spec = model_spec(config)
    total = sum(num_elements(spec, name) for name, _ in tensor_shapes(spec))
    assert total / 1e9 == pytest.approx(billions, rel=5e-3)
    assert num_parameters(spec) == total - unlearned(spec)


def unlearned(spec):
    """Count what is no parameter: biases that choose experts."""
    return sum(
        num_elements(spec, name)
        for name, _ in tensor_shapes(spec)
        if name.endswith("correction_bias")
    )


def num_elements(spec, name):
    """Return the size of a tensor by the last parts of its name."""
    if name.endswith("correction_bias"):
        return spec.num_experts
    if ".self_attn." in name and spec.latent is not None:
        return num_latent_elements(spec, name.split(".")[-2])
    if name.endswith("sinks"):
        return spec.num_heads
    if stacked := re.search(r"experts\.(gate_up|down)_proj(_bias)?$", name):
        inner, inputs = 2 * spec.expert_ffn_size, spec.hidden_size
        if stacked[1] == "down":
            inner, inputs = spec.hidden_size, spec.expert_ffn_size
        return spec.num_experts * inner * (1 if stacked[2] else inputs)
    queries, keys = spec.num_heads * spec.head_dim, spec.num_groups * spec.head_dim
    expert_size = spec.ffn_size if spec.moe is None else spec.moe.ffn_size
    outputs = {
        "embed_tokens": spec.vocab_size,
        "lm_head": spec.vocab_size,
        "q_proj": queries,
        "k_proj": keys,
        "v_proj": keys,
        "o_proj": queries,
        **dict.fromkeys(["gate", "router"], spec.num_experts),
        **dict.fromkeys(["gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"], expert_size),
    }
    *_, module, kind = name.split(".")
    if module == "gate_up_proj":
        return 2 * spec.ffn_size * spec.hidden_size
    if ".shared_expert" in name:
        return spec.hidden_size * (1 if module == "shared_expert_gate" else spec.shared_ffn_size)
    if ".experts." not in name:
        outputs |= dict.fromkeys(["gate_proj", "up_proj", "down_proj"], spec.ffn_size)
    if module in ("q_norm", "k_norm"):
        return spec.head_dim
    if "norm" in module or name.endswith("o_proj.bias"):
        return spec.hidden_size
    return math.prod([outputs[module]] if kind == "bias" else [outputs[module], spec.hidden_size])


def num_latent_elements(spec, module):
    latent, heads = spec.latent, spec.num_heads
    plain_dim = spec.head_dim - spec.rotary_dim
    return {
        "q_proj": heads * spec.head_dim * spec.hidden_size,
        "q_a_proj": (latent.query_rank or 0) * spec.hidden_size,
        "q_a_layernorm": latent.query_rank,
        "q_b_proj": heads * spec.head_dim * (latent.query_rank or 0),
        "kv_a_proj_with_mqa": (latent.kv_rank + spec.rotary_dim) * spec.hidden_size,
        "kv_a_layernorm": latent.kv_rank,
        "kv_b_proj": heads * (plain_dim + latent.value_dim) * latent.kv_rank,
        "o_proj": spec.hidden_size * heads * latent.value_dim,
    }[module]


def test_latents_and_scores_of_released_models():
    lite, large, moonlight = map(model_spec, (DEEPSEEK_V2_LITE, DEEPSEEK_V3, MOONLIGHT_16B))
    assert (lite.head_dim, lite.rotary_dim, lite.value_dim) == (192, 64, 128)
    assert (lite.latent.query_rank, large.latent.query_rank) == (None, 1536)
    assert [spec.latent.mscale for spec in (lite, large, moonlight)] == [0.707, 1.0, 0.0]
    assert lite.rope_scaling.attention_factor == large.rope_scaling.attention_factor == 1
    assert large.moe.routing.num_groups == 8 and large.num_draft_layers == 1
    assert moonlight.moe.routing.scale == 2.446 and moonlight.rope_scaling is None


def test_releases_that_megatron_cannot_route_or_multiply_are_refused():
    with pytest.raises(ModelError, match=r"'group_limited_greedy' with n_group \(8\) is not supp"):
        model_spec(DEEPSEEK_V2)
    fp8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    with pytest.raises(ModelError, match=r"quantised weights cannot be trained; name the folder"):
        model_spec(DEEPSEEK_V3 | fp8)


def test_the_release_in_4_bits_is_refused_with_the_folder_that_is_not():
    with pytest.raises(ModelError, match=r"\"mxfp4\".*Mxfp4Config\(dequantize=True\).*NEW_FOLDER"):
        model_spec(GPT_OSS_20B | {"quantization_config": MXFP4})


def test_windows_and_scaling_of_released_models():
    assert model_spec(MISTRAL_7B).window.size == 4096
    gemma = model_spec(GEMMA_3_1B)
    # Layers 6, 12, 18 and 24 of 26 see everything.
    assert [i + 1 for i, slides in enumerate(gemma.window.layers) if not slides] == [6, 12, 18, 24]
    assert (gemma.window.size, gemma.rope_theta, gemma.local_rope_theta) == (512, 1e6, 1e4)
    others = [LLAMA_3_1_8B, MIXTRAL_8X7B, QWEN_2_5_7B, QWEN_3_4B, QWEN_3_30B_A3B]
    assert [model_spec(config).window for config in others] == [None] * 5
    long = QWEN_2_5_7B | {
        "rope_scaling": {
            "factor": 4.0,
            "original_max_position_embeddings": 32768,
            "type": "yarn",
        }
    }
    assert model_spec(long).rope_scaling.original_max_positions == 32768


def test_gpt_oss_slides_in_every_second_layer_and_stretches_without_rounding():
    spec = model_spec(GPT_OSS_20B)
    assert spec.windows[:4] == (128, None, 128, None)
    assert not spec.rope_scaling.is_truncated
    assert spec.rope_scaling.attention_factor == pytest.approx(0.1 * math.log(32) + 1)
    assert (spec.experts_per_token, spec.moe.is_renormalised) == (4, True)
    assert num_active_parameters(spec) / 1e9 == pytest.approx(4.19, abs=0.01)  # 3.6 unembedded
    # What transformers takes a config.json for that does not say so.
    implied = {"layer_types", "rope_scaling", "sliding_window", "head_dim", "attention_bias"}
    short = {key: value for key, value in GPT_OSS_20B.items() if key not in implied}
    assert model_spec(short) == spec
