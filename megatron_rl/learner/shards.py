"""Shards of the policy on this rank, and where those of all ranks are."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_rl.conversion.block_fp8.blocks import quantised_weights
from megatron_rl.conversion.block_fp8.tensors import owner_of_scales, served_tensors
from megatron_rl.conversion.families import weight_rules
from megatron_rl.conversion.resharding import DType, LearnerMap, Place
from megatron_rl.learner.device.parallel import Parallel
from megatron_rl.learner.hf_weights import params_by_rule
from megatron_rl.learner.quantised_shards import QuantisedShards
from megatron_rl.model_spec import ModelSpec

_LAYER = re.compile(r"decoder\.layers\.\d+\.")


class LearnerShards:
    """Weights of a learner under training, read where they are. Built by all ranks together."""

    def __init__(
        self,
        chunks: Sequence[torch.nn.Module],
        spec: ModelSpec,
        parallel: Parallel,
        *,
        dtype: str,
        settle: Callable[[], None],
        whole: Callable[[frozenset[str] | None], Iterator[tuple[str, Tensor]]],
        quantised: frozenset[str],
    ) -> None:
        """Find out where parameters are.

        Args:
            chunks: the bare GPTModels of this rank's pipeline stage.
            spec: of the whole model.
            parallel: this rank in the layout.
            dtype: in which weights are published.
            settle: brings in what other ranks have updated.
            whole: yields whole tensors of these names, or all.
            quantised: Hugging Face tensors that travel in block FP8.
        """
        self.spec = spec
        self.quantised = quantised
        self._parameters = params_by_rule(chunks, spec, parallel)
        self.places = _learner_map(self._parameters, spec, parallel)
        served = list(served_tensors(spec, dtype=dtype, quantised=quantised))
        self.shapes = {tensor.name: tensor.shape for tensor in served}
        self.dtypes = {tensor.name: _dtype(tensor.dtype) for tensor in served}
        self._settle = settle
        self._whole = whole
        self._blocks = QuantisedShards(
            spec,
            self.places,
            quantised,
            self._own,
            rank=parallel.rank,
            dtype=getattr(torch, dtype),
        )

    def settle(self) -> None:
        """Bring in what other ranks have updated, before weights are read; a collective."""
        self._settle()
        self._blocks.forget()

    def parameter(self, name: str) -> Tensor:
        """Return this rank's part of a parameter of the whole model, as it is now.

        Of values and scales in block FP8, which have their own names, as ``settle`` left it.
        """
        return self._blocks.part(name) if name in self._blocks else self._own(name)

    def whole(self, names: frozenset[str] | None) -> Iterator[tuple[str, Tensor]]:
        """Yield (Hugging Face name, whole tensor) as servers have it; a collective."""
        owners = None if names is None else frozenset(map(owner_of_scales, names))
        return quantised_weights(self._whole(owners), self.quantised)

    def _own(self, name: str) -> Tensor:
        return self._parameters[name][0].detach()


def _dtype(name: str) -> DType:
    return DType(name=name, itemsize=getattr(torch, name).itemsize)


def _learner_map(
    parameters: Mapping[str, object], spec: ModelSpec, parallel: Parallel
) -> LearnerMap:
    """Ask all ranks where they are and what their stage holds; a collective."""
    mine = Place(
        stage=parallel.pp_rank,
        tp_rank=parallel.tp_rank,
        ep_rank=parallel.ep_rank,
        etp_rank=parallel.etp_rank,
    )
    everyone: list[tuple[Place, set[str]]] = [(mine, {_home(name) for name in parameters})]
    if parallel.world_size > 1:
        everyone *= parallel.world_size
        dist.all_gather_object(everyone, everyone[parallel.rank])
    stages: dict[str, int] = {}
    for place, homes in everyone:
        for home in homes:
            # A tied output layer on the last stage is a copy of the embedding on the first.
            stages[home] = min(place.stage, stages.get(home, place.stage))
    return LearnerMap(
        places=[place for place, _ in everyone],
        stages={r.megatron: stages[_home(r.megatron)] for r in weight_rules(spec)},
        tp=parallel.layout.tp,
        etp=parallel.layout.etp,
        experts_per_rank=spec.num_experts // parallel.layout.ep,
    )


def _home(parameter: str) -> str:
    """Return what lies in one stage as a whole: the layer of a parameter, or the parameter."""
    found = _LAYER.match(parameter)
    return parameter if found is None else found[0]
