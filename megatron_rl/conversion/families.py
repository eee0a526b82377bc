"""Model families as tables: what a Hugging Face config means, and which weights make which.

A field of config.json that the table does not name is an error: a difference that goes unnoticed
shows as wrong log-probs weeks later.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_rl.conversion.layouts import Layout
from megatron_rl.errors import ModelError

_IGNORED = frozenset(
    [
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dtype",
        "eos_token_id",
        "id2label",
        "is_encoder_decoder",
        "label2id",
        "max_window_layers",
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "problem_type",
        "return_dict",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    ]
)
_ARCHITECTURE = frozenset(
    [
        "attention_bias",
        "head_dim",
        "hidden_act",
        "hidden_size",
        "initializer_range",
        "intermediate_size",
        "layer_types",
        "max_position_embeddings",
        "model_type",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
        "rms_norm_eps",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "sliding_window",
        "tie_word_embeddings",
        "use_sliding_window",
        "vocab_size",
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """What sets one family apart from the common decoder."""

    has_qk_norm: bool
    slides_by_default: bool
    """Whether a ``sliding_window`` number is in force without ``use_sliding_window``."""


FAMILIES = {
    "qwen3": Family(has_qk_norm=True, slides_by_default=False),
    "mistral": Family(has_qk_norm=False, slides_by_default=True),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """A decoder-only transformer in the terms Megatron is built from."""

    family: str
    num_layers: int
    hidden_size: int
    ffn_size: int
    num_heads: int
    num_groups: int
    head_dim: int
    vocab_size: int
    max_positions: int
    norm_eps: float
    rope_theta: float
    has_qk_norm: bool
    is_tied: bool
    init_std: float
    """Standard deviation of random weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightRule:
    """One Megatron parameter and the Hugging Face tensors it is made of, in order."""

    megatron: str
    huggingface: tuple[str, ...]
    layout: Layout


def read_model_spec(folder: Path) -> ModelSpec:
    """Read config.json of a Hugging Face folder; raise ModelError when it is not understood."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise ModelError(f"{path}: not valid JSON: {error}") from error
    try:
        return model_spec(config)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except KeyError as error:
        raise ModelError(f"{path}: field {error} is missing") from error


def model_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Translate a Hugging Face config, refusing whatever is not understood."""
    name = config["model_type"]
    if name not in FAMILIES:
        raise ModelError(f"model_type {name!r} is not supported; known: {', '.join(FAMILIES)}")
    unknown = sorted(set(config) - _ARCHITECTURE - _IGNORED)
    if unknown:
        raise ModelError(f"fields not understood for {name}: {', '.join(unknown)}")
    _refuse_variants(config, FAMILIES[name])
    num_heads = config["num_attention_heads"]
    return ModelSpec(
        family=name,
        num_layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        ffn_size=config["intermediate_size"],
        num_heads=num_heads,
        num_groups=config["num_key_value_heads"],
        head_dim=_head_dim(config),
        vocab_size=config["vocab_size"],
        max_positions=config["max_position_embeddings"],
        norm_eps=config["rms_norm_eps"],
        rope_theta=_rope_theta(config),
        has_qk_norm=FAMILIES[name].has_qk_norm,
        is_tied=config["tie_word_embeddings"],
        init_std=config["initializer_range"],
    )


def weight_rules(spec: ModelSpec) -> Iterator[WeightRule]:
    """Yield the rule of every parameter of the whole model, in a fixed order."""
    yield WeightRule(
        megatron="embedding.word_embeddings.weight",
        huggingface=("model.embed_tokens.weight",),
        layout="vocab",
    )
    for layer in range(spec.num_layers):
        yield from _layer_rules(spec, layer)
    yield WeightRule(
        megatron="decoder.final_layernorm.weight",
        huggingface=("model.norm.weight",),
        layout="replicated",
    )
    if not spec.is_tied:
        yield WeightRule(
            megatron="output_layer.weight", huggingface=("lm_head.weight",), layout="vocab"
        )


def _layer_rules(spec: ModelSpec, layer: int) -> Iterator[WeightRule]:
    rows: list[tuple[str, tuple[str, ...], Layout]] = [
        ("self_attention.linear_qkv.layer_norm_weight", ("input_layernorm",), "replicated"),
        (
            "self_attention.linear_qkv.weight",
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "qkv",
        ),
        ("self_attention.linear_proj.weight", ("self_attn.o_proj",), "row"),
        ("mlp.linear_fc1.layer_norm_weight", ("post_attention_layernorm",), "replicated"),
        ("mlp.linear_fc1.weight", ("mlp.gate_proj", "mlp.up_proj"), "gate_up"),
        ("mlp.linear_fc2.weight", ("mlp.down_proj",), "row"),
    ]
    if spec.has_qk_norm:
        rows[2:2] = [
            ("self_attention.q_layernorm.weight", ("self_attn.q_norm",), "replicated"),
            ("self_attention.k_layernorm.weight", ("self_attn.k_norm",), "replicated"),
        ]
    for megatron, modules, layout in rows:
        yield WeightRule(
            megatron=f"decoder.layers.{layer}.{megatron}",
            huggingface=tuple(f"model.layers.{layer}.{module}.weight" for module in modules),
            layout=layout,
        )


def _refuse_variants(config: Mapping[str, Any], family: Family) -> None:
    if config["hidden_act"] != "silu":
        raise ModelError(f"hidden_act {config['hidden_act']!r} is not supported, only 'silu'")
    if config.get("attention_bias"):
        raise ModelError("attention_bias = true is not supported")
    slides = config.get("use_sliding_window", family.slides_by_default)
    if slides and config.get("sliding_window") is not None:
        raise ModelError(f"sliding_window = {config['sliding_window']} is not supported; set null")
    scaling = _rope_scaling(config)
    if scaling is not None:
        raise ModelError(f"rope scaling {scaling!r} is not supported, only 'default'")
    for table in ("rope_parameters", "rope_scaling"):
        unknown = sorted(set(config.get(table) or ()) - {"rope_type", "type", "rope_theta"})
        if unknown:
            raise ModelError(f"fields of {table} not understood: {', '.join(unknown)}")


def _head_dim(config: Mapping[str, Any]) -> int:
    explicit = config.get("head_dim")
    if explicit is not None:
        return int(explicit)
    return int(config["hidden_size"] // config["num_attention_heads"])


def _rope_theta(config: Mapping[str, Any]) -> float:
    # transformers 5 nests what earlier versions kept at the top.
    nested = config.get("rope_parameters")
    return float(config["rope_theta"] if nested is None else nested["rope_theta"])


def _rope_scaling(config: Mapping[str, Any]) -> str | None:
    for key in ("rope_parameters", "rope_scaling"):
        table = config.get(key)
        if table is not None:
            kind = table.get("rope_type", table.get("type"))
            if kind not in (None, "default"):
                return str(kind)
    return None
