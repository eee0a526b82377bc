"""RoPE scaling of a run in place of that of a config.json: what may be scaled, and how it is said.

Learner, servers and exported folders all read the table that is made here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megatron_rl.config import LLAMA3_FACTORS, RopeScalingConfig
from megatron_rl.conversion.families.inert_fields import CONTEXT_LENGTHS
from megatron_rl.conversion.families.rope_fields import yarn_attention_factor
from megatron_rl.errors import ConfigError
from megatron_rl.model_spec import LinearScaling, Llama3Scaling, ModelSpec, YarnScaling

_ORIGINAL = "original_max_position_embeddings"
_SCALING = {"yarn": YarnScaling, "llama3": Llama3Scaling}
_NAMES = {YarnScaling: "yarn", Llama3Scaling: "llama3", LinearScaling: "linear"}
_PLAIN_IN_SERVERS = ("mixtral",)
"""Families whose model in SGLang 0.5.21 takes theta from config.json, and no scaling."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaledRope:
    """Rotary embedding with a context extension, as config.json says it."""

    table: Mapping[str, Any]
    """``rope_parameters`` of transformers 5, theta included."""
    max_positions: int


def scaled_rope(spec: ModelSpec, scaling: RopeScalingConfig) -> ScaledRope:
    """Return the rotary embedding of a model that a run scales.

    What the run leaves out is as the model has it, where that is scaled in the same way.

    Args:
        spec: of the model as its config.json says.
        scaling: of the run.

    Raises:
        ConfigError: not every part would compute this model so, or the keys do not suit it.
    """
    _check_model(spec, scaling)
    own = _own_fields(spec)
    stated = scaling.stated()
    original = int(stated.get(_ORIGINAL, own.get(_ORIGINAL, spec.max_positions)))
    if original > spec.max_positions:
        raise ConfigError(
            f"model.rope_scaling.{_ORIGINAL} ({original}) must be <= max_position_embeddings of "
            f"the model ({spec.max_positions}); remove the key to use the model's own"
        )
    defaults = LLAMA3_FACTORS if scaling.type == "llama3" else {}
    fields = {**defaults, **own, **stated, _ORIGINAL: original}
    _check_order(fields)
    reached = int(scaling.factor * original)
    # A release may be trained on more positions than its factor says: Llama 3.1 on twice as many.
    is_widened = bool(own) and scaling.factor >= own["factor"]
    return ScaledRope(
        table={"rope_type": scaling.type, "rope_theta": spec.rope_theta, **fields},
        max_positions=max(reached, spec.max_positions) if is_widened else reached,
    )


def fields_of_file(config: Mapping[str, Any], spec: ModelSpec, rope: ScaledRope) -> dict[str, Any]:
    """Return the fields of a config.json that change, in the spelling that it has.

    Args:
        config: contents of the file.
        spec: of the model as the file says.
        rope: what the file is to say.
    """
    table = dict(rope.table)
    is_nested = config.get("rope_parameters") is not None
    if not is_nested and config.get("rope_theta") == spec.rope_theta:
        del table["rope_theta"]  # it stands where transformers 4 looks for it
    spelled = [
        name for name in ("rope_parameters", "rope_scaling") if config.get(name) is not None
    ] or ["rope_scaling"]
    lengths = [name for name in CONTEXT_LENGTHS if config.get(name) is not None]
    return dict.fromkeys(spelled, table) | dict.fromkeys(
        ["max_position_embeddings", *lengths], rope.max_positions
    )


def fields_of_server(config: Mapping[str, Any], rope: ScaledRope) -> dict[str, Any]:
    """Return the fields that a server takes instead of those of its folder's config.json."""
    lengths = [name for name in CONTEXT_LENGTHS if config.get(name) is not None]
    # transformers 5 has one attribute of two names, which must not be set to different tables.
    tables = {"rope_parameters": dict(rope.table), "rope_scaling": dict(rope.table)}
    return tables | dict.fromkeys(["max_position_embeddings", *lengths], rope.max_positions)


def _check_model(spec: ModelSpec, scaling: RopeScalingConfig) -> None:
    reason = _why_not(spec)
    if reason is not None:
        raise ConfigError(
            f'model.rope_scaling.type ("{scaling.type}") is not possible for {spec.family}: '
            f"{reason}; remove [model.rope_scaling]"
        )
    own = spec.rope_scaling
    if own is None:
        return
    if not isinstance(own, _SCALING[scaling.type]):
        raise ConfigError(
            f'model.rope_scaling.type ("{scaling.type}") must be the scaling that the model was '
            f'trained with, which is "{_NAMES[type(own)]}" in config.json'
        )
    if isinstance(own, YarnScaling) and scaling.mscale is None and not _has_plain_factor(own):
        raise ConfigError(
            f"model.rope_scaling.mscale must be given, with mscale_all_dim: config.json has an "
            f"attention factor of its own ({own.attention_factor:g} with factor {own.factor:g})"
        )


def _why_not(spec: ModelSpec) -> str | None:
    if spec.latent is not None:
        return "latent attention is scaled by its own rule, in servers by whatever YaRN says"
    if spec.rotary_dim != spec.head_dim:
        return "only a part of each head is rotated, for which no release has a scaling"
    if spec.local_rope_theta is not None or spec.family == "gemma3_text":
        return "its layers have two rotations, of which a server on a CPU scales none"
    if spec.family in _PLAIN_IN_SERVERS:
        return "SGLang has no scaling in its model of this family"
    return None


def _has_plain_factor(own: YarnScaling) -> bool:
    plain = yarn_attention_factor(own.factor, mscale=None, mscale_all_dim=None)
    return math.isclose(own.attention_factor, plain)


def _own_fields(spec: ModelSpec) -> dict[str, Any]:
    """Return the scaling that the model has already, as config.json spells it."""
    own = spec.rope_scaling
    if isinstance(own, YarnScaling):
        fields: dict[str, Any] = {"beta_fast": own.beta_fast, "beta_slow": own.beta_slow}
        if not own.is_truncated:
            fields["truncate"] = False
    elif isinstance(own, Llama3Scaling):
        fields = {"low_freq_factor": own.low_freq_factor, "high_freq_factor": own.high_freq_factor}
    else:
        return {}
    return {"factor": own.factor, _ORIGINAL: own.original_max_positions, **fields}


def _check_order(fields: Mapping[str, Any]) -> None:
    for lower, upper in (("low_freq_factor", "high_freq_factor"), ("beta_slow", "beta_fast")):
        if lower in fields and upper in fields and fields[lower] >= fields[upper]:
            raise ConfigError(
                f"model.rope_scaling.{lower} ({fields[lower]:g}) must be < {upper} "
                f"({fields[upper]:g}): between them dimensions are scaled in part"
            )
