"""Tensors of a model, listed once for all that is planned with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from megatron_rl.conversion.families import WeightRule, weight_rules
from megatron_rl.conversion.families.shapes import Shape, tensor_shapes
from megatron_rl.conversion.resharding import DType
from megatron_rl.model_spec import ModelSpec

_FLOAT32, _BFLOAT16 = DType(name="float32", itemsize=4), DType(name="bfloat16", itemsize=2)


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """Rules of a model, and the shapes and types of the tensors that they name."""

    spec: ModelSpec
    rules: Sequence[WeightRule]
    shapes: Mapping[str, Shape]
    dtypes: Mapping[str, DType]
    """As they travel: bfloat16, but for what is float32 always."""

    @classmethod
    def of(cls, spec: ModelSpec) -> "Tensors":
        """List the tensors of a model."""
        rules = list(weight_rules(spec))
        return cls(
            spec=spec,
            rules=rules,
            shapes=dict(tensor_shapes(spec)),
            dtypes={
                name: _FLOAT32 if rule.is_float32 else _BFLOAT16
                for rule in rules
                for name in rule.huggingface
            },
        )

    def num_bytes(self, name: str) -> int:
        """Return the size of a whole tensor."""
        return prod(self.shapes[name]) * self.dtypes[name].itemsize

    def sizes(self) -> list[int]:
        """Return the size of every tensor, in the order in which they are published."""
        return [self.num_bytes(name) for rule in self.rules for name in rule.huggingface]
