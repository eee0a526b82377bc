"""Rotary embedding as a Hugging Face config states it, in the spellings of every version."""

import math
from collections.abc import Mapping
from typing import Any

from megatron_rl.conversion.families.field_types import LAYER_KINDS
from megatron_rl.errors import ModelError
from megatron_rl.model_spec import (
    LinearScaling,
    Llama3Scaling,
    RopeScaling,
    YarnScaling,
)

_FIELDS = {
    "default": frozenset[str](),
    "linear": frozenset(["factor"]),
    "llama3": frozenset(
        ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"]
    ),
    "yarn": frozenset(
        [
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "factor",
            "mscale",
            "mscale_all_dim",
            "original_max_position_embeddings",
            "truncate",
        ]
    ),
}
_OPTIONAL = {
    "attention_factor": None,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": None,
    "mscale_all_dim": None,
    "truncate": True,
}
"""Values that transformers uses for absent fields."""


def take_apart_by_layer(config: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
    """Return the config as the layers that do not slide have it, and theta of those that do.

    For a family with a rotary embedding for each of the two.

    Raises:
        ModelError: layers that slide have a context extension, or others one that would reach them.
    """
    nested = config.get("rope_parameters")
    if nested is None:
        full, sliding = {}, {}
    elif set(nested) <= set(LAYER_KINDS):
        full, sliding = (dict(nested.get(kind) or {}) for kind in LAYER_KINDS)
    else:
        raise ModelError(
            f"rope_parameters must have a table for each of {' and '.join(LAYER_KINDS)} in this "
            "family"
        )
    # An older release's scaling is that of the layers that do not slide.
    flat = {**config, "rope_parameters": None, "rope_scaling": None}
    flat["rope_parameters"] = {**full, **(config.get("rope_scaling") or {})} or None
    of_sliding = {
        "rope_parameters": sliding or None,
        "rope_theta": config["rope_local_base_freq"],
        "max_position_embeddings": config["max_position_embeddings"],
    }
    theta, _, scaling = read_rope(of_sliding)
    if scaling is not None:
        raise ModelError("rope scaling of layers with sliding_attention is not supported")
    if isinstance(read_rope(flat)[2], YarnScaling):
        raise ModelError(
            "yarn rope scaling in this family is not supported: its attention factor would be that "
            "of all layers"
        )
    return flat, theta


def read_rope(config: Mapping[str, Any]) -> tuple[float, float, RopeScaling | None]:
    """Return theta, the share of a head that is rotated, and the context extension.

    Raises:
        ModelError: the extension is unknown, or a part of a head is rotated in a family that
            rotates the whole.
    """
    table = rope_table(config)
    share = 1.0
    if "partial_rotary_factor" in config:  # a field of families that may rotate a part
        share = float(table.pop("partial_rotary_factor", config["partial_rotary_factor"]))
    kind = table["rope_type"]
    if kind not in _FIELDS:
        raise ModelError(f"rope scaling {kind!r} is not supported; known: {', '.join(_FIELDS)}")
    unknown = sorted(set(table) - _FIELDS[kind] - {"rope_type", "type", "rope_theta"})
    if unknown:
        raise ModelError(f"fields of {kind} rope scaling not understood: {', '.join(unknown)}")
    implied = {
        **_OPTIONAL,
        "original_max_position_embeddings": config["max_position_embeddings"],
    }
    scaling = _scaling(kind, {**implied, **table})
    if share != 1 and scaling is not None:
        raise ModelError(f"{kind} rope scaling with partial_rotary_factor {share} is not supported")
    return float(table["rope_theta"]), share, scaling


def rope_table(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return one table, whether theta and scaling are nested (transformers 5) or apart."""
    nested, scaling = config.get("rope_parameters"), config.get("rope_scaling")
    if nested is not None and scaling is not None and nested != scaling:
        raise ModelError("rope_parameters and rope_scaling differ; keep one of them")
    given = nested if nested is not None else scaling
    stated = {} if given is None else given
    table = {key: value for key, value in stated.items() if value is not None}
    if table.get("partial_rotary_factor") == 1:
        del table["partial_rotary_factor"]
    if "rope_theta" not in table:
        table["rope_theta"] = config["rope_theta"]
    if "rope_type" not in table:
        table["rope_type"] = table["type"] if "type" in table else "default"
    return table


def _scaling(kind: str, table: Mapping[str, Any]) -> RopeScaling | None:
    if kind == "default":
        return None
    factor = float(table["factor"])
    if kind == "linear":
        return LinearScaling(factor=factor)
    original = int(table["original_max_position_embeddings"])
    if kind == "llama3":
        return Llama3Scaling(
            factor=factor,
            low_freq_factor=float(table["low_freq_factor"]),
            high_freq_factor=float(table["high_freq_factor"]),
            original_max_positions=original,
        )
    factor_stated = table["attention_factor"]
    inferred = yarn_attention_factor(
        factor, mscale=table["mscale"], mscale_all_dim=table["mscale_all_dim"]
    )
    return YarnScaling(
        factor=factor,
        beta_fast=float(table["beta_fast"]),
        beta_slow=float(table["beta_slow"]),
        original_max_positions=original,
        is_truncated=table["truncate"],
        attention_factor=inferred if factor_stated is None else float(factor_stated),
    )


def yarn_attention_factor(
    factor: float, *, mscale: float | None, mscale_all_dim: float | None
) -> float:
    """Return the attention factor of a YaRN table that does not state it."""

    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    # Zero means absent here, as it does in transformers.
    if mscale and mscale_all_dim:
        return scale(mscale) / scale(mscale_all_dim)
    return scale(1.0)
