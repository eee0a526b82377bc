"""Model families as tables: what a Hugging Face config means, and which weights make which."""

from megatron_rl.conversion.families.reading import model_spec, read_model_spec
from megatron_rl.conversion.families.rules import WeightRule, weight_rules
from megatron_rl.conversion.families.tables import FAMILIES

__all__ = [
    "FAMILIES",
    "WeightRule",
    "model_spec",
    "read_model_spec",
    "weight_rules",
]
