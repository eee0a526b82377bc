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
    def quantised(self) -> frozenset[str]:
        """Hugging Face tensors that travel in block FP8, as values and scales."""
        ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor as it travels, in the order in which loaders are shown them."""
        ...

    @property
    def dtypes(self) -> Mapping[str, DType]:
        """Type of every tensor as it travels."""
        ...

    def settle(self) -> None:
        """Bring in what other ranks have updated, before weights are read; a collective."""
        ...

    def parameter(self, name: str) -> Tensor:
        """Return this rank's part of a parameter of the whole model, as it is now.

        Of values and scales in block FP8, by their own names, those of this rank's box.
        """
        ...

    def whole(self, names: frozenset[str] | None) -> Iterator[tuple[str, Tensor]]:
        """Yield (Hugging Face name, whole tensor) of all or some tensors; a collective."""
        ...
