"""RoPE scaling of a run: the context extension of a model, and the rules of its keys."""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from megatron_rl.config.base import Positive, Section

AboveZero = Annotated[float, Field(gt=0)]

_OF_TYPE = {
    "yarn": ("beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
    "llama3": ("low_freq_factor", "high_freq_factor"),
}
LLAMA3_FACTORS: Mapping[str, float] = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
"""Those of every release of Llama 3; transformers wants them stated."""
_POSITIONS = ("max_position_embeddings", "max_sequence_length", "max_seq_len", "model_max_length")
_OVERRIDES = "json_model_override_args"


class RopeScalingConfig(Section):
    """RoPE scaling, for contexts longer than the model's positions.

    It replaces that of config.json, in the learner, in every server and in exported folders.
    """

    type: Literal["yarn", "llama3"]
    """YaRN (arXiv:2309.00071), or the scaling of Llama 3.1."""
    factor: Annotated[float, Field(gt=1)]
    """Longest context, as a multiple of the original positions."""
    original_max_position_embeddings: Positive | None = None
    """Positions that the model was trained on before any scaling; what config.json says when not
    given: those of its scaling, or max_position_embeddings without one."""
    beta_fast: AboveZero | None = None
    """yarn: a dimension with more rotations over the original positions is not scaled; the model's
    own, or 32, when not given."""
    beta_slow: AboveZero | None = None
    """yarn: a dimension with fewer rotations is divided by the factor; the model's own, or 1, when
    not given."""
    mscale: AboveZero | None = None
    """yarn: queries and keys are multiplied with s(mscale) / s(mscale_all_dim), where s(m) is
    0.1 m ln(factor) plus 1; with s(1) when neither is given."""
    mscale_all_dim: AboveZero | None = None
    """yarn: see mscale; both are given, or neither."""
    low_freq_factor: AboveZero | None = None
    """llama3: a dimension with fewer rotations over the original positions is divided by the
    factor; the model's own, or 1, when not given."""
    high_freq_factor: AboveZero | None = None
    """llama3: a dimension with more rotations is not scaled; the model's own, or 4, when not
    given."""

    def stated(self) -> dict[str, Any]:
        """Return the keys that the run states, but for ``type``: names are those of config.json."""
        return self.model_dump(exclude={"type"}, exclude_none=True)


def rope_scaling_faults(scaling: RopeScalingConfig | None) -> Iterator[str]:
    """Yield each rule that the keys break among themselves."""
    if scaling is None:
        return
    for kind, keys in _OF_TYPE.items():
        for key in keys:
            if kind != scaling.type and getattr(scaling, key) is not None:
                yield (
                    f"model.rope_scaling.{key} ({getattr(scaling, key)}) is for "
                    f'model.rope_scaling.type = "{kind}", which is "{scaling.type}" here; remove it'
                )
    if (scaling.mscale is None) != (scaling.mscale_all_dim is None):
        yield (
            f"model.rope_scaling.mscale ({scaling.mscale}) and mscale_all_dim "
            f"({scaling.mscale_all_dim}) must be given together: one alone is passed over; give "
            "both, or remove both"
        )


def rope_override_faults(flags: Mapping[str, Any]) -> Iterator[str]:
    """Yield each field by which a flag of the servers would give them other positions.

    Args:
        flags: the ``generators.sglang`` table.
    """
    for key, value in flags.items():
        if key.replace("-", "_") != _OVERRIDES:
            continue
        for name in sorted(_override_names(value)):
            if "rope" in name or "rotary" in name or name in _POSITIONS:
                yield (
                    f"generators.sglang.{key} must not set {name}: servers would sample from "
                    "another model than the learner trains; set model.rope_scaling, which both "
                    "and exported folders follow"
                )


def _override_names(value: Any) -> set[str]:
    """Return the fields of an override, a table or its JSON; what is neither, SGLang refuses."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return set()
    return set(value) if isinstance(value, dict) else set()
