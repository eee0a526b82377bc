"""Types of the fields that are read from a config.json, and the refusal of any other value."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from megatron_rl.errors import ModelError

_Rule = tuple[str, Callable[[Any], bool]]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def _is_list_of(is_item: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(is_item, value))


def _or_null(rule: _Rule) -> _Rule:
    words, is_legal = rule
    return f"{words} or null", lambda value: value is None or is_legal(value)


_TEXT: _Rule = ("a text", lambda value: isinstance(value, str))
_SWITCH: _Rule = ("true or false", lambda value: isinstance(value, bool))
_COUNT: _Rule = ("a whole number > 0", lambda value: _is_whole(value) and value > 0)
_INDEX: _Rule = ("a whole number >= 0", lambda value: _is_whole(value) and value >= 0)
_POSITIVE: _Rule = ("a number > 0", lambda value: _is_number(value) and value > 0)
_NUMBER: _Rule = ("a number >= 0", lambda value: _is_number(value) and value >= 0)
_TABLE: _Rule = ("an object", lambda value: isinstance(value, dict))
_NAMES: _Rule = ("a list of texts", _is_list_of(lambda item: isinstance(item, str)))
_LAYERS: _Rule = ("a list of whole numbers", _is_list_of(_is_whole))

_FIELDS: Mapping[str, _Rule] = {
    "attention_bias": _SWITCH,
    "attn_logit_softcapping": _or_null(_POSITIVE),
    "decoder_sparse_step": _COUNT,
    "experts_per_token": _COUNT,
    "final_logit_softcapping": _or_null(_POSITIVE),
    "first_k_dense_replace": _INDEX,
    "head_dim": _or_null(_COUNT),
    "hidden_act": _TEXT,
    "hidden_activation": _TEXT,
    "hidden_size": _COUNT,
    "initializer_range": _NUMBER,
    "intermediate_size": _COUNT,
    "kv_lora_rank": _COUNT,
    "layer_types": _or_null(_NAMES),
    "max_position_embeddings": _COUNT,
    "max_window_layers": _INDEX,
    "mlp_bias": _SWITCH,
    "mlp_only_layers": _or_null(_LAYERS),
    "model_type": _TEXT,
    "moe_intermediate_size": _COUNT,
    "norm_topk_prob": _SWITCH,
    "num_attention_heads": _COUNT,
    "num_experts": _COUNT,
    "num_experts_per_tok": _COUNT,
    "num_hidden_layers": _COUNT,
    "n_group": _COUNT,
    "n_routed_experts": _COUNT,
    "n_shared_experts": _or_null(_INDEX),
    "num_nextn_predict_layers": _or_null(_INDEX),
    "partial_rotary_factor": _POSITIVE,
    "q_lora_rank": _or_null(_COUNT),
    "qk_head_dim": _or_null(_COUNT),
    "qk_nope_head_dim": _COUNT,
    "qk_rope_head_dim": _COUNT,
    "qkv_bias": _SWITCH,
    "num_key_value_heads": _or_null(_COUNT),
    "num_local_experts": _COUNT,
    "query_pre_attn_scalar": _POSITIVE,
    "rms_norm_eps": _POSITIVE,
    "rope_local_base_freq": _POSITIVE,
    "rope_parameters": _or_null(_TABLE),
    "rope_scaling": _or_null(_TABLE),
    "rope_theta": _POSITIVE,
    "routed_scaling_factor": _POSITIVE,
    "shared_expert_intermediate_size": _INDEX,
    "sliding_window": _or_null(_COUNT),
    "sliding_window_pattern": _COUNT,
    "tie_word_embeddings": _SWITCH,
    "topk_group": _COUNT,
    "topk_method": _or_null(_TEXT),
    "use_mrope": _SWITCH,
    "use_qk_norm": _SWITCH,
    "use_sliding_window": _SWITCH,
    "v_head_dim": _COUNT,
    "vocab_size": _COUNT,
}
LAYER_KINDS = ("full_attention", "sliding_attention")
"""Values of ``layer_types`` that are understood."""

_ROPE_FIELDS: Mapping[str, _Rule] = {
    **dict.fromkeys(LAYER_KINDS, _or_null(_TABLE)),
    "attention_factor": _or_null(_POSITIVE),
    "beta_fast": _or_null(_POSITIVE),
    "beta_slow": _or_null(_POSITIVE),
    "factor": _or_null(_POSITIVE),
    "high_freq_factor": _or_null(_POSITIVE),
    "low_freq_factor": _or_null(_POSITIVE),
    "mscale": _or_null(_NUMBER),
    "mscale_all_dim": _or_null(_NUMBER),
    "original_max_position_embeddings": _or_null(_COUNT),
    "rope_theta": _POSITIVE,
    "rope_type": _or_null(_TEXT),
    "truncate": _or_null(_SWITCH),
    "type": _or_null(_TEXT),
}


def check_types(config: Mapping[str, Any]) -> None:
    """Raise ModelError for the first field that is read and has a value that it cannot have.

    Args:
        config: contents of config.json; fields that nothing reads are passed over.
    """
    _check(config, _FIELDS, where="")
    for name in ("rope_parameters", "rope_scaling"):
        if config.get(name) is not None:
            _check_rope(config[name], where=f"{name}.")


def _check_rope(table: Mapping[str, Any], *, where: str) -> None:
    _check(table, _ROPE_FIELDS, where=where)
    for kind in LAYER_KINDS:  # transformers 5 has a table for each kind that a model mixes
        if table.get(kind) is not None:
            _check(table[kind], _ROPE_FIELDS, where=f"{where}{kind}.")


def _is_no_window(name: str, value: Any, fields: Mapping[str, Any]) -> bool:
    """Return whether it is the width of a window that is off: transformers writes 0."""
    return name == "sliding_window" and value == 0 and fields.get("use_sliding_window") is False


def _check(fields: Mapping[str, Any], rules: Mapping[str, _Rule], *, where: str) -> None:
    for name, value in fields.items():
        if name not in rules or _is_no_window(name, value, fields):
            continue
        words, is_legal = rules[name]
        if not is_legal(value):
            raise ModelError(
                f"{where}{name} ({json.dumps(value)}) must be {words}; correct it by the model's "
                "own release"
            )
