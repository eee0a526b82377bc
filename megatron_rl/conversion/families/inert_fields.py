"""Inert fields of a config.json: those that, as they stand, cannot change the forward pass.

Programs that save models leave marks and settings of their own in config.json. A mark is left out
whatever it says. A switch of something that the family lacks is left out while it is off: null is
off everywhere. What is neither is refused by name.
"""

import json
from collections.abc import Mapping, Set
from typing import Any

from megatron_rl.errors import ModelError

_MARKS = frozenset(
    [
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_attn_implementation_internal",
        "_commit_hash",
        "_experts_implementation_internal",
        "_flash_attn_2_enabled",
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "attn_implementation",
        "bos_token_id",
        "chunk_size_feed_forward",
        "decoder_start_token_id",
        "dtype",
        "embd_pdrop",
        "eos_token_id",
        "finetuning_task",
        "gradient_checkpointing",
        "hidden_dropout",
        "id2label",
        "is_decoder",
        "is_encoder_decoder",
        "is_llama_config",
        "label2id",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "prefix",
        "pretraining_tp",
        "problem_type",
        "resid_pdrop",
        "return_dict",
        "sep_token_id",
        "task_specific_params",
        "tie_encoder_decoder",
        "tokenizer_class",
        "torch_dtype",
        "torchscript",
        "transformers.js_config",
        "transformers_version",
        "unsloth_fixed",
        "unsloth_version",
        "use_bfloat16",
        "use_cache",
        "use_return_dict",
    ]
)
"""Fields of every family that do not change what the learner computes, whatever they say."""

# Older releases of transformers wrote them here instead of into generation_config.json. Requests
# state their sampling parameters themselves.
_GENERATION = frozenset(
    [
        "bad_words_ids",
        "begin_suppress_tokens",
        "cache_implementation",
        "diversity_penalty",
        "do_sample",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "length_penalty",
        "max_length",
        "max_new_tokens",
        "min_length",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "output_scores",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict_in_generate",
        "suppress_tokens",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
    ]
)

_OFF: Mapping[str, Any] = {
    "add_cross_attention": False,
    "bias": False,
    "mlp_bias": False,
    "n_shared_experts": 0,
    "num_nextn_predict_layers": 0,
    "partial_rotary_factor": 1,
    "pruned_heads": {},
    "rope_interleaved": False,
    "rope_is_neox_style": True,
    "shared_expert_intermediate_size": 0,
    "use_mrope": False,
    "use_qk_norm": False,
}
"""Value at which a field that the family does not read says what the family does anyway."""

CONTEXT_LENGTHS = ("max_sequence_length", "max_seq_len", "model_max_length", "seq_length")
"""Fields of which servers take the first that is there for the model's context length."""
_QUANTISATION = ("compression_config", "quantization", "quantization_config")
_SHOWN = 60
_DEQUANTISE = (
    "dequantise them once with transformers: AutoModelForCausalLM.from_pretrained(FOLDER, "
    'quantization_config=Mxfp4Config(dequantize=True)).save_pretrained("NEW_FOLDER", '
    "save_original_format=False), the same with AutoTokenizer, and set model.path = "
    '"NEW_FOLDER"'
)
"""For a model whose only release has its experts in 4 bits."""


def without_inert(
    config: Mapping[str, Any],
    *,
    family: str,
    fields: Set[str],
    ignored: Set[str],
    off: Mapping[str, Any],
    implied: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the fields that are read.

    Args:
        config: contents of config.json.
        family: name for the message.
        fields: fields that the family reads.
        ignored: fields that do not matter to this family, whatever they say.
        off: values at which fields say what this family does anyway, beyond the common ones.
        implied: values of fields that ``config`` lacks.

    Raises:
        ModelError: a field is neither read nor inert; names every such field with its value.
    """
    inert = (_MARKS | _GENERATION | ignored) - fields
    completed = {**implied, **config}
    unknown = {
        key: value
        for key, value in config.items()
        if key not in fields | inert and not _is_off(key, value, completed, {**_OFF, **off})
    }
    if unknown:
        raise ModelError(_refusal(family, unknown))
    return {key: value for key, value in config.items() if key in fields}


def _is_off(key: str, value: Any, config: Mapping[str, Any], off: Mapping[str, Any]) -> bool:
    if value is None:
        return True
    if key in CONTEXT_LENGTHS:
        return bool(value == config["max_position_embeddings"])
    if key in _QUANTISATION:
        return bool(value == {})
    has_size = config["sliding_window"] is not None
    slides = has_size and config["use_sliding_window"] is not False
    if key == "use_sliding_window":
        return value is False and not has_size
    if key == "max_window_layers":
        return not slides
    if key == "layer_types":
        return not slides and isinstance(value, list) and set(value) <= {"full_attention"}
    return key in off and bool(value == off[key])


def _refusal(family: str, unknown: Mapping[str, Any]) -> str:
    quantised = sorted(unknown.keys() & set(_QUANTISATION))
    if quantised:
        stated = unknown[quantised[0]]
        is_mxfp4 = isinstance(stated, dict) and stated.get("quant_method") == "mxfp4"
        remedy = _DEQUANTISE if is_mxfp4 else "name the folder of the model's unquantised release"
        shown = '{"quant_method": "mxfp4"}' if is_mxfp4 else _shown(stated)
        return f"{quantised[0]} = {shown}: quantised weights cannot be trained; {remedy}"
    named = ", ".join(f"{key} = {_shown(unknown[key])}" for key in sorted(unknown))
    return (
        f"fields not understood for {family}: {named}. Each may change what the model computes; "
        "remove from config.json those that do not"
    )


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
