"""Reader of Hugging Face configs: config.json to a ModelSpec.

A field of config.json that is neither read nor inert is an error: a difference that goes unnoticed
shows as wrong log-probs weeks later. A field that is missing has the value that transformers, and
with it the server, takes it for.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_rl.config import RopeScalingConfig
from megatron_rl.conversion.families.field_types import LAYER_KINDS, check_types
from megatron_rl.conversion.families.inert_fields import without_inert
from megatron_rl.conversion.families.latent_fields import latent_head_dims, read_latent
from megatron_rl.conversion.families.moe_fields import read_moe
from megatron_rl.conversion.families.rope_fields import read_rope, take_apart_by_layer
from megatron_rl.conversion.families.rope_scaling import (
    fields_of_file,
    fields_of_server,
    scaled_rope,
)
from megatron_rl.conversion.families.tables import COMMON, FAMILIES, IMPLIED, REFUSED, Family
from megatron_rl.errors import ModelError
from megatron_rl.model_spec import ModelSpec, SlidingWindow

Config = Mapping[str, Any]


def read_model_spec(folder: Path, scaling: RopeScalingConfig | None = None) -> ModelSpec:
    """Read config.json of a Hugging Face folder.

    Args:
        folder: of a model; weights are not looked at.
        scaling: replaces the RoPE scaling of config.json.

    Raises:
        ModelError: config.json cannot be read, or is of an unsupported model.
        ConfigError: the model cannot be scaled so.
    """
    config, spec = _read(folder)
    if scaling is None:
        return spec
    return model_spec({**config, **fields_of_file(config, spec, scaled_rope(spec, scaling))})


def read_scaled_fields(folder: Path, scaling: RopeScalingConfig) -> dict[str, Any]:
    """Return the fields of config.json that change with the RoPE scaling of a run, for exports."""
    config, spec = _read(folder)
    return fields_of_file(config, spec, scaled_rope(spec, scaling))


def read_served_fields(folder: Path, scaling: RopeScalingConfig) -> dict[str, Any]:
    """Return the fields of config.json that change with the RoPE scaling of a run, for servers."""
    config, spec = _read(folder)
    return fields_of_server(config, scaled_rope(spec, scaling))


def _read(folder: Path) -> tuple[Config, ModelSpec]:
    """Return what config.json says, as it stands and as it is understood."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # not JSON, or not text
        raise ModelError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: must hold a JSON object, got {type(config).__name__}")
    try:
        return config, model_spec(config)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except KeyError as error:
        raise ModelError(f"{path}: field {error} is missing") from error


def model_spec(config: Config) -> ModelSpec:
    """Translate a Hugging Face config; raise ModelError for an unsupported field or value."""
    check_types(config)
    name = config["model_type"]
    if name in REFUSED:
        raise ModelError(f"model_type {name!r} is not supported: {REFUSED[name]}")
    if name not in FAMILIES:
        raise ModelError(f"model_type {name!r} is not supported; known: {', '.join(FAMILIES)}")
    family = FAMILIES[name]
    read = without_inert(
        config,
        family=name,
        fields=COMMON | family.fields,
        ignored=family.ignored,
        off=family.off,
        implied=family.implied,
    )
    completed = {**IMPLIED, **family.implied, **read}
    _refuse_variants(completed, family)
    if family.rope_scaling is not None and not _states_rope(completed):
        completed["rope_scaling"] = family.rope_scaling
    local_theta = None
    if "rope_local_base_freq" in completed:
        completed, local_theta = take_apart_by_layer(completed)
    theta, rotated_share, scaling = read_rope(completed)
    window = _sliding_window(completed)
    num_heads, num_groups = completed["num_attention_heads"], completed["num_key_value_heads"]
    if family.has_latents:
        plain_dim, rotary_dim = latent_head_dims(completed)
        head_dim = plain_dim + rotary_dim
    else:
        head_dim = _head_dim(completed)
        rotary_dim = int(head_dim * rotated_share)
    spec = ModelSpec(
        family=name,
        num_layers=completed["num_hidden_layers"],
        hidden_size=completed["hidden_size"],
        ffn_size=completed["intermediate_size"],
        num_heads=num_heads,
        num_groups=num_heads if num_groups is None else num_groups,
        head_dim=head_dim,
        vocab_size=completed["vocab_size"],
        max_positions=completed["max_position_embeddings"],
        norm_eps=completed["rms_norm_eps"],
        rope_theta=theta,
        rope_scaling=scaling,
        rotary_dim=rotary_dim,
        has_qk_norm=_says(family.has_qk_norm, completed),
        has_qkv_bias=_says(family.has_qkv_bias, completed),
        window=window,
        moe=None if family.experts is None else read_moe(completed, family.experts),
        is_tied=completed["tie_word_embeddings"],
        num_draft_layers=completed.get("num_nextn_predict_layers") or 0,
        init_std=completed["initializer_range"],
        has_linear_biases=family.has_linear_biases,
        has_sinks=family.has_sinks,
        is_interleaved=family.is_interleaved,
        has_sandwich_norms=family.norms.after_attention is not None,
        has_centred_norms=family.has_centred_norms,
        activation=family.computed_activation,
        embedding_scale=completed["hidden_size"] ** 0.5 if family.has_scaled_embedding else 1.0,
        query_pre_attn_scalar=completed.get("query_pre_attn_scalar"),
        local_rope_theta=None if window is None else local_theta,
        latent=read_latent(completed) if family.has_latents else None,
    )
    _check_sizes(spec)
    return spec


def _says(feature: bool | str, config: Config) -> bool:
    """Return whether the family has a feature, or the config where that decides."""
    return bool(config[feature]) if isinstance(feature, str) else feature


def _states_rope(config: Config) -> bool:
    return any(config.get(name) is not None for name in ("rope_parameters", "rope_scaling"))


def _refuse_variants(config: Config, family: Family) -> None:
    field, only = family.activation
    if config[field] != only:
        raise ModelError(f"{field} {config[field]!r} is not supported, only {only!r}")
    for field in ("attn_logit_softcapping", "final_logit_softcapping"):
        if config.get(field) is not None:
            raise ModelError(
                f"{field} = {config[field]} is not supported: neither attention nor the output "
                "layer of Megatron has softcapping"
            )
    if family.has_linear_biases:
        if not config["attention_bias"]:
            raise ModelError(
                "attention_bias = false is not supported: Megatron has the biases of attention "
                "together with those of routers and experts, or none"
            )
    elif config["attention_bias"] and family.has_qkv_bias != "attention_bias":
        raise ModelError(
            "attention_bias = true is not supported: Megatron has no bias of the output projection "
            "(o_proj) without one in every layer"
        )
    if family.is_always_tied and not config["tie_word_embeddings"]:
        raise ModelError(
            "tie_word_embeddings = false is not supported in this family: SGLang takes the "
            "embedding for the output layer all the same"
        )
    if config["mlp_bias"]:
        raise ModelError("mlp_bias = true is not supported")
    if config.get("use_mrope"):
        raise ModelError("use_mrope = true is for images and is not supported")


def _head_dim(config: Config) -> int:
    explicit, hidden, heads = (
        config[name] for name in ("head_dim", "hidden_size", "num_attention_heads")
    )
    if explicit is not None:
        return int(explicit)
    if hidden % heads:
        raise ModelError(
            f"num_attention_heads ({heads}) must divide hidden_size ({hidden}), or head_dim be "
            "stated"
        )
    return int(hidden // heads)


def _check_sizes(spec: ModelSpec) -> None:
    if spec.num_heads % spec.num_groups:
        raise ModelError(
            f"num_key_value_heads ({spec.num_groups}) must divide num_attention_heads "
            f"({spec.num_heads})"
        )
    if spec.latent is None and (spec.head_dim % 2 or spec.rotary_dim % 2):
        share = "" if spec.rotary_dim == spec.head_dim else " * partial_rotary_factor"
        raise ModelError(
            f"head_dim{share} ({spec.rotary_dim}) must be even: the rotary embedding turns pairs"
        )
    if spec.moe is not None and spec.experts_per_token > spec.num_experts:
        raise ModelError(
            f"num_experts_per_tok ({spec.experts_per_token}) must be <= the number of experts "
            f"({spec.num_experts})"
        )


def _sliding_window(config: Config) -> SlidingWindow | None:
    size, types = config["sliding_window"], config["layer_types"]
    num_layers = config["num_hidden_layers"]
    if types is None and "sliding_window_pattern" in config:
        # Every so many layers one does not slide.
        ends = range(1, num_layers + 1)
        types = [LAYER_KINDS[end % config["sliding_window_pattern"] != 0] for end in ends]
    if types is not None:
        _check_layer_types(types, num_layers)
    if size is None or not config["use_sliding_window"]:
        if types is not None and "sliding_attention" in types:
            raise ModelError(
                f"layer_types has sliding_attention, but use_sliding_window is "
                f"{config['use_sliding_window']} and sliding_window {size}"
            )
        return None
    if types is None and "max_window_layers" not in config:
        raise ModelError("use_sliding_window = true is not supported without layer_types")
    if types is None:
        layers = tuple(layer >= config["max_window_layers"] for layer in range(num_layers))
    else:
        layers = tuple(kind == "sliding_attention" for kind in types)
    return SlidingWindow(size=size, layers=layers) if any(layers) else None


def _check_layer_types(types: list[str], num_layers: int) -> None:
    unknown = sorted(set(types) - set(LAYER_KINDS))
    if unknown:
        raise ModelError(f"layer_types not understood: {', '.join(unknown)}")
    if len(types) != num_layers:
        raise ModelError(f"layer_types has {len(types)} entries for {num_layers} layers")
