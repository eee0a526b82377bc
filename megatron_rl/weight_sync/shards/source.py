"""Source of shards: one learner rank's parameters, and where those of all ranks are."""

from collections.abc import Iterator, Mapping
from typing import Protocol

from torch import Tensor

from megatron_rl.conversion.resharding import DType, LearnerMap
from megatron_rl.model_spec import ModelSpec


class ShardSource(Protocol):
    """Weights of the policy on one learner rank: whole, gathered by all ranks, or its shards."""

    @property
    def spec(self) -> ModelSpec:
        """The whole model."""
        ...

    @property
    def places(self) -> LearnerMap:
        """Where every parameter of the model is."""
        ...

    @property
    def dtypes(self) -> Mapping[str, DType]:
        """Type of every Hugging Face tensor as it travels."""
        ...

    def settle(self) -> None:
        """Bring in what other ranks have updated, before weights are read; a collective."""
        ...

    def parameter(self, name: str) -> Tensor:
        """Return this rank's part of a parameter of the whole model, as it is now."""
        ...

    def whole(self, names: frozenset[str] | None) -> Iterator[tuple[str, Tensor]]:
        """Yield (Hugging Face name, whole tensor) of all or some tensors; a collective."""
        ...
