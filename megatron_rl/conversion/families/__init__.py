"""Model families as tables: the meaning of a Hugging Face config, and the names of weights."""

from megatron_rl.conversion.families.reading import (
    model_spec,
    read_model_spec,
    read_scaled_fields,
    read_served_fields,
)
from megatron_rl.conversion.families.rules import (
    SELECTION_BIAS,
    WeightRule,
    float32_tensors,
    weight_rules,
)
from megatron_rl.conversion.families.tables import FAMILIES

__all__ = [
    "FAMILIES",
    "SELECTION_BIAS",
    "WeightRule",
    "float32_tensors",
    "model_spec",
    "read_model_spec",
    "read_scaled_fields",
    "read_served_fields",
    "weight_rules",
]
