"""Model families as tables: the meaning of a Hugging Face config, and the names of weights."""

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
