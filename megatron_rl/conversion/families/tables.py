"""Tables of the families: config fields, the meaning of absent ones, and weight names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megatron_rl.model_spec import Activation

COMMON = frozenset(
    [
        "head_dim",
        "hidden_act",
        "hidden_size",
        "initializer_range",
        "intermediate_size",
        "max_position_embeddings",
        "model_type",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
        "rms_norm_eps",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "tie_word_embeddings",
        "vocab_size",
    ]
)
"""Fields of every family that are read."""

IMPLIED: Mapping[str, Any] = {
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
"""Values that transformers uses for fields that config.json lacks. Sizes are never implied."""

# These fields act on the loss or the noise of pre-training, never on the logits.
_ROUTER_TRAINING = frozenset(["output_router_logits", "router_aux_loss_coef"])


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertNames:
    """Hugging Face modules of a mixture, relative to its layer, as checkpoints on disk have them.

    transformers 5 holds all experts of a layer in one tensor (``mlp.experts.gate_up_proj``,
    ``mlp.experts.down_proj``) and takes them apart again when it saves.
    """

    router: str
    gate: str
    up: str
    down: str
    shared: str | None = None
    """Module of the expert that every token is given to."""
    shared_gate: str | None = None
    selection_bias: str | None = None
    """Tensor that is added to the scores before experts are chosen."""
    is_stacked: bool = False
    """Whether ``gate``, which is ``up`` as well, and ``down`` are tensors [E, in, out] of all
    experts of a layer, with columns of gate and up in turns; a bias has ``_bias`` at its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NormNames:
    """Hugging Face modules of the norms of a layer, but for the one of its input."""

    before_mlp: str = "post_attention_layernorm"
    after_attention: str | None = None
    """Of the output of attention, before it is added."""
    after_mlp: str | None = None
    """Of the output of the feed-forward layer, before it is added."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """Differences of one family from the common decoder."""

    fields: frozenset[str]
    """Fields that are read beyond the common ones."""
    ignored: frozenset[str]
    """Fields of this family that act outside the forward pass only."""
    off: Mapping[str, Any]
    """Values of fields that this family does not read, at which they say what it does anyway."""
    implied: Mapping[str, Any]
    """Values that transformers uses for fields that config.json or the family lacks, beyond
    ``IMPLIED``."""
    has_qk_norm: bool | str
    """Or the name of the field that says so."""
    has_qkv_bias: bool | str
    """Or the name of the field that says so."""
    experts: ExpertNames | None
    has_linear_biases: bool = False
    has_sinks: bool = False
    norms: NormNames = NormNames()
    is_interleaved: bool = False
    """Whether neighbouring dimensions of a head are rotated together, instead of its halves."""
    gate_up: str | None = None
    """Module of gate and up projection where they are one; None where they are two."""
    activation: tuple[str, str] = ("hidden_act", "silu")
    """Field that names the activation, and the only value that it may have."""
    computed_activation: Activation = "silu"
    """What the family makes of it."""
    has_centred_norms: bool = False
    """Whether a norm scales by 1 + its weight."""
    is_always_tied: bool = False
    """Whether the embedding is the output layer in SGLang, whatever the config says."""
    has_scaled_embedding: bool = False
    """Whether embedded tokens are multiplied by the square root of the hidden size."""
    has_latents: bool = False
    """Latent attention."""
    rope_scaling: Mapping[str, Any] | None = None
    """What transformers takes a config.json without rotary embedding for."""


# Every layer slides if there is a window.
_ALWAYS_SLIDING = {"use_sliding_window": True, "max_window_layers": 0, "layer_types": None}
_NEVER_SLIDING = {"use_sliding_window": False, "sliding_window": None, "layer_types": None}
_NO_BIAS = {"attention_bias": False, "mlp_bias": False}
_HEAD_DIM = {"head_dim": None}
_QWEN_WINDOW = {
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}

_GLM: Mapping[str, Any] = {
    **{"attention_bias": True, "mlp_bias": False, "head_dim": 128},
    **_NEVER_SLIDING,
    **{"partial_rotary_factor": 0.5, "rms_norm_eps": 1.5625e-07},
}

_QWEN_EXPERTS: Mapping[str, Any] = {
    "router": "mlp.gate",
    "gate": "mlp.experts.{expert}.gate_proj",
    "up": "mlp.experts.{expert}.up_proj",
    "down": "mlp.experts.{expert}.down_proj",
}

_DEEPSEEK_FIELDS = frozenset(
    [
        "attention_bias",
        "first_k_dense_replace",
        "kv_lora_rank",
        "moe_intermediate_size",
        "n_group",
        "n_routed_experts",
        "n_shared_experts",
        "norm_topk_prob",
        "num_experts_per_tok",
        "q_lora_rank",
        "qk_head_dim",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "routed_scaling_factor",
        "topk_group",
        "v_head_dim",
    ]
)
# How its inventors spread pre-training, and what they added to its loss.
_DEEPSEEK_TRAINING = frozenset(["aux_loss_alpha", "ep_size", "seq_aux"])


def _own_code(name: str) -> dict[str, Any]:
    """Return the auto_map of a release whose own code computes what transformers does."""
    return {
        "auto_map": {
            "AutoConfig": f"configuration_deepseek.{name}Config",
            "AutoModel": f"modeling_deepseek.{name}Model",
            "AutoModelForCausalLM": f"modeling_deepseek.{name}ForCausalLM",
        }
    }


FAMILIES = {
    "llama": Family(
        fields=frozenset(_NO_BIAS),
        ignored=frozenset(),
        off={},
        implied=_NO_BIAS | _HEAD_DIM | _NEVER_SLIDING | {"num_key_value_heads": None},
        has_qk_norm=False,
        has_qkv_bias=False,
        experts=None,
    ),
    "mistral": Family(
        fields=frozenset(["sliding_window"]),
        ignored=frozenset(),
        off=_NO_BIAS,
        implied=_NO_BIAS | _HEAD_DIM | _ALWAYS_SLIDING | {"sliding_window": 4096},
        has_qk_norm=False,
        has_qkv_bias=False,
        experts=None,
    ),
    "qwen2": Family(
        fields=frozenset([*_QWEN_WINDOW, "use_mrope"]),
        ignored=frozenset(),
        # attention_bias = false would contradict the biases that this family has.
        off={},
        implied=_NO_BIAS | _HEAD_DIM | _QWEN_WINDOW | {"use_mrope": False},
        has_qk_norm=False,
        has_qkv_bias=True,
        experts=None,
    ),
    "qwen3": Family(
        fields=frozenset([*_QWEN_WINDOW, "attention_bias"]),
        ignored=frozenset(),
        off={"use_qk_norm": True},
        implied=_NO_BIAS | {"head_dim": 128} | _QWEN_WINDOW,
        has_qk_norm=True,
        has_qkv_bias=False,
        experts=None,
    ),
    "mixtral": Family(
        fields=frozenset(["sliding_window", "num_local_experts", "num_experts_per_tok"]),
        ignored=_ROUTER_TRAINING | {"router_jitter_noise"},
        off=_NO_BIAS | {"norm_topk_prob": True},
        implied=_NO_BIAS
        | _HEAD_DIM
        | _ALWAYS_SLIDING
        | {"sliding_window": None, "rms_norm_eps": 1e-5, "rope_theta": 1e6}
        | {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": None},
        has_qk_norm=False,
        has_qkv_bias=False,
        experts=ExpertNames(
            router="block_sparse_moe.gate",
            gate="block_sparse_moe.experts.{expert}.w1",
            up="block_sparse_moe.experts.{expert}.w3",
            down="block_sparse_moe.experts.{expert}.w2",
        ),
    ),
    "qwen3_moe": Family(
        fields=frozenset(
            [
                "attention_bias",
                "decoder_sparse_step",
                "mlp_only_layers",
                "moe_intermediate_size",
                "norm_topk_prob",
                "num_experts",
                "num_experts_per_tok",
                "num_local_experts",
                "sliding_window",
                "use_sliding_window",
            ]
        ),
        # In this family all layers slide or none.
        ignored=_ROUTER_TRAINING | {"max_window_layers"},
        off={"use_qk_norm": True},
        implied=_NO_BIAS
        | _HEAD_DIM
        | _ALWAYS_SLIDING
        | {"use_sliding_window": False, "sliding_window": 4096}
        | {"norm_topk_prob": False, "decoder_sparse_step": 1, "mlp_only_layers": None},
        has_qk_norm=True,
        has_qkv_bias=False,
        experts=ExpertNames(**_QWEN_EXPERTS),
    ),
    "qwen2_moe": Family(
        fields=frozenset(
            [
                "decoder_sparse_step",
                "layer_types",
                "mlp_only_layers",
                "moe_intermediate_size",
                "norm_topk_prob",
                "num_experts",
                "num_experts_per_tok",
                "num_local_experts",
                "qkv_bias",
                "shared_expert_intermediate_size",
                "sliding_window",
                "use_sliding_window",
            ]
        ),
        ignored=_ROUTER_TRAINING | {"max_window_layers"},
        off={},
        implied=_NO_BIAS
        | _HEAD_DIM
        | _NEVER_SLIDING
        | {"norm_topk_prob": False, "decoder_sparse_step": 1, "mlp_only_layers": None}
        | {"qkv_bias": True},
        has_qk_norm=False,
        has_qkv_bias="qkv_bias",
        experts=ExpertNames(
            **_QWEN_EXPERTS, shared="mlp.shared_expert", shared_gate="mlp.shared_expert_gate"
        ),
    ),
    "glm4_moe": Family(
        fields=frozenset(
            [
                "attention_bias",
                "first_k_dense_replace",
                "moe_intermediate_size",
                "n_group",
                "n_routed_experts",
                "n_shared_experts",
                "norm_topk_prob",
                "num_experts_per_tok",
                "num_nextn_predict_layers",
                "partial_rotary_factor",
                "routed_scaling_factor",
                "topk_group",
                "use_qk_norm",
            ]
        ),
        ignored=_ROUTER_TRAINING,
        off={},
        implied=_NO_BIAS
        | _HEAD_DIM
        | _NEVER_SLIDING
        | {"partial_rotary_factor": 0.5, "rms_norm_eps": 1e-5, "use_qk_norm": False}
        | {"norm_topk_prob": True, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
        | {"routed_scaling_factor": 1.0, "n_shared_experts": 1},
        has_qk_norm="use_qk_norm",
        has_qkv_bias="attention_bias",
        experts=ExpertNames(
            **_QWEN_EXPERTS,
            shared="mlp.shared_experts",
            selection_bias="mlp.gate.e_score_correction_bias",
        ),
    ),
    "glm4": Family(
        fields=frozenset(["attention_bias", "partial_rotary_factor"]),
        ignored=frozenset(),
        off={"mlp_bias": False},
        implied=_GLM,
        has_qk_norm=False,
        has_qkv_bias="attention_bias",
        experts=None,
        norms=NormNames(after_attention="post_self_attn_layernorm", after_mlp="post_mlp_layernorm"),
        is_interleaved=True,
        gate_up="mlp.gate_up_proj",
    ),
    "gemma3_text": Family(
        fields=frozenset(
            [
                "attn_logit_softcapping",
                "final_logit_softcapping",
                "hidden_activation",
                "layer_types",
                "query_pre_attn_scalar",
                "rope_local_base_freq",
                "sliding_window",
                "sliding_window_pattern",
            ]
        ),
        # What transformers made layer_types of; it saves both.
        ignored=frozenset(["_sliding_window_pattern", "hidden_act"]),
        off={"use_bidirectional_attention": False, "attention_bias": False},
        implied=_NO_BIAS
        | {"head_dim": 256, "rope_theta": 1e6, "rope_local_base_freq": 1e4}
        | {"use_sliding_window": True, "sliding_window": 4096, "layer_types": None}
        | {"sliding_window_pattern": 6, "hidden_activation": "gelu_pytorch_tanh"}
        | {"query_pre_attn_scalar": 256, "tie_word_embeddings": True}
        | {"attn_logit_softcapping": None, "final_logit_softcapping": None},
        has_qk_norm=True,
        has_qkv_bias=False,
        experts=None,
        norms=NormNames(
            before_mlp="pre_feedforward_layernorm",
            after_attention="post_attention_layernorm",
            after_mlp="post_feedforward_layernorm",
        ),
        activation=("hidden_activation", "gelu_pytorch_tanh"),
        computed_activation="gelu_tanh",
        has_centred_norms=True,
        has_scaled_embedding=True,
        is_always_tied=True,
    ),
    "deepseek_v2": Family(
        fields=_DEEPSEEK_FIELDS | {"topk_method"},
        ignored=_DEEPSEEK_TRAINING,
        off={"moe_layer_freq": 1, "scoring_func": "softmax"} | _own_code("DeepseekV2"),
        implied=_NO_BIAS
        | _HEAD_DIM
        | _NEVER_SLIDING
        | {"num_key_value_heads": None, "qk_head_dim": None, "topk_method": "greedy"}
        | {"norm_topk_prob": False, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 0}
        | {"routed_scaling_factor": 1.0, "n_shared_experts": 2},
        has_qk_norm=False,
        has_qkv_bias=False,
        experts=ExpertNames(**_QWEN_EXPERTS, shared="mlp.shared_experts"),
        has_latents=True,
    ),
    "deepseek_v3": Family(
        fields=_DEEPSEEK_FIELDS | {"num_nextn_predict_layers"},
        ignored=_DEEPSEEK_TRAINING,
        off={
            "moe_layer_freq": 1,
            "rope_interleave": True,
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
        }
        | _own_code("DeepseekV3"),
        implied=_NO_BIAS
        | _HEAD_DIM
        | _NEVER_SLIDING
        | {"num_key_value_heads": None, "qk_head_dim": None}
        | {"norm_topk_prob": True, "n_group": 8, "topk_group": 4, "first_k_dense_replace": 3}
        | {"routed_scaling_factor": 2.5, "n_shared_experts": 1},
        has_qk_norm=False,
        has_qkv_bias=False,
        experts=ExpertNames(
            **_QWEN_EXPERTS,
            shared="mlp.shared_experts",
            selection_bias="mlp.gate.e_score_correction_bias",
        ),
        has_latents=True,
    ),
    "gpt_oss": Family(
        fields=frozenset(
            [
                "attention_bias",
                "experts_per_token",
                "layer_types",
                "num_experts",
                "num_experts_per_tok",
                "num_local_experts",
                "sliding_window",
            ]
        ),
        # The latter repeats what rope_scaling says, and nothing reads it.
        ignored=_ROUTER_TRAINING | {"initial_context_length"},
        off={"swiglu_limit": 7.0, "hidden_act_alpha": 1.702},
        implied=_NO_BIAS
        | {"attention_bias": True, "head_dim": 64, "num_key_value_heads": 8}
        | {"rms_norm_eps": 1e-5, "rope_theta": 150000.0}
        | {"sliding_window": 128, "use_sliding_window": True}
        | {"layer_types": None, "sliding_window_pattern": 2}
        | {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": None},
        has_qk_norm=False,
        has_qkv_bias=True,
        experts=ExpertNames(
            router="mlp.router",
            gate="mlp.experts.gate_up_proj",
            up="mlp.experts.gate_up_proj",
            down="mlp.experts.down_proj",
            is_stacked=True,
        ),
        has_linear_biases=True,
        has_sinks=True,
        computed_activation="clamped",
        rope_scaling={
            "rope_type": "yarn",
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 4096,
        },
    ),
}

REFUSED: Mapping[str, str] = {
    "gemma2": "Megatron has no softcapping of attention scores; take Gemma 3 (gemma3_text)",
    "gemma3": "beside its text part it has an image encoder, which changes the names of weights; "
    "take a model of text alone (gemma3_text)",
    "glm": "SGLang has no model of it; GLM-4-0414 (glm4) is served",
}
"""Families that come near to those above, and what is in the way."""
