"""Abstract model on the meta device: names, shapes and storage of parameters, no weights.

The model is built on torch's meta device, where tensors have shapes and no memory.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import (
    ShardedObject,
    ShardedTensor,
    ShardedTensorFactory,
)
from torch import Tensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata

from megatron_rl.learner.checkpoint.megatron_format import content_metadata
from megatron_rl.learner.device.parallel import RankInfo, initialize_parallel, shut_down_parallel
from megatron_rl.learner.device.platform import CpuPlatform
from megatron_rl.learner.model.gpt_model import build_frozen_chunks, transformer_config
from megatron_rl.model_spec import ModelSpec
from megatron_rl.parallelism.layouts import Layout

_ALONE = Layout(tp=1, sp=False, pp=1, vpp=1, cp=1, ep=1, etp=1)

Entry = ShardedTensor | ShardedTensorFactory
"""A parameter: stored as it is, or (a factory) in several pieces."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AbstractModel:
    """A whole model without weights."""

    spec: ModelSpec
    params: Mapping[str, Entry]
    """By the name that weight rules have for a parameter."""
    objects: Mapping[str, ShardedObject]
    """What layers store beside parameters, by name."""


@contextmanager
def open_abstract_model(
    spec: ModelSpec, *, dtype: torch.dtype, cpu_threads: int
) -> Iterator[AbstractModel]:
    """Build a model on the meta device; this process is a job of one until the context ends."""
    platform = CpuPlatform(num_threads=cpu_threads)
    platform.install()
    rank_info = RankInfo(rank=0, world_size=1, local_rank=0)
    parallel = initialize_parallel(rank_info, platform, _ALONE, seed=0)
    try:
        config = transformer_config(spec, parallel.layout, dtype=dtype, overrides={})
        with torch.device("meta"):
            (model,) = build_frozen_chunks(spec, config, parallel, _OnMeta(platform=platform))
        state = model.sharded_state_dict(metadata=content_metadata())
        objects = {name: e for name, e in state.items() if isinstance(e, ShardedObject)}
        params = {name: e for name, e in state.items() if name not in objects}
        yield AbstractModel(spec=spec, params=params, objects=objects)
    finally:
        shut_down_parallel()


def pieces(entry: Entry, whole: Tensor | None) -> list[ShardedTensor]:
    """Return the tensors that are stored of a parameter, with ``whole`` as its data.

    Without ``whole`` they have shapes alone.
    """
    data = entry.data if whole is None else whole
    filled = dataclasses.replace(entry, data=data)
    return list(filled.build()) if isinstance(filled, ShardedTensorFactory) else [filled]


def merged(entry: Entry, parts: list[Tensor]) -> Tensor:
    """Inverse of :func:`pieces` on tensors."""
    if isinstance(entry, ShardedTensorFactory):
        return entry.merge_fn(parts)
    (part,) = parts
    return part


def chunk_of(piece: ShardedTensor) -> ChunkStorageMetadata:
    """Return where in its stored tensor a piece lies; layers are stored stacked."""
    sizes = (1,) * piece.prepend_axis_num + tuple(piece.local_shape)
    return ChunkStorageMetadata(offsets=torch.Size(piece.global_offset), sizes=torch.Size(sizes))


@dataclass(frozen=True, kw_only=True)
class _OnMeta:
    """The layers of a platform, without memory."""

    platform: CpuPlatform

    @property
    def device(self) -> torch.device:
        return torch.device("meta")

    @property
    def backend(self) -> str:
        return self.platform.backend

    def install(self) -> None:
        self.platform.install()

    def block_spec(self, config: Any, *, vp_stage: int | None) -> Any:
        return self.platform.block_spec(config, vp_stage=vp_stage)
