"""Process groups: who holds which part of the model and of the batch."""

import datetime
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel

from megatron_rl.errors import ConfigError
from megatron_rl.learner.platform import Platform

_TIMEOUT = datetime.timedelta(minutes=30)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parallel:
    """This rank's place in the layout, and the groups it talks to."""

    rank: int
    world_size: int
    tp_size: int
    tp_rank: int
    tp_group: Any
    dp_size: int
    dp_rank: int
    dp_group: Any
    sp: bool

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and talks to generators."""
        return self.rank == 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """This process among those of the job, as its launcher says."""

    rank: int
    world_size: int
    local_rank: int


def place_from_environment(environment: Mapping[str, str]) -> Place:
    """Read torchrun's variables, or srun's with one task per rank; alone when there are none."""
    for rank, size, local in (
        ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
        ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    ):
        if rank in environment and size in environment:
            return Place(
                rank=int(environment[rank]),
                world_size=int(environment[size]),
                local_rank=int(environment[local]),
            )
    return Place(rank=0, world_size=1, local_rank=0)


def initialize_parallel(
    place: Place, platform: Platform, *, tp_size: int, sp: bool, seed: int
) -> Parallel:
    """Join the default process group and build Megatron's groups.

    Raises:
        ConfigError: the processes cannot be divided into tensor-parallel groups.
    """
    if place.world_size % tp_size:
        raise ConfigError(
            f"learner.parallel.tp ({tp_size}) must divide the number of ranks "
            f"({place.world_size}); start a multiple of {tp_size}"
        )
    if place.world_size == 1:
        # Nobody else has to find this rank, so it need not occupy a well-known port.
        store = dist.HashStore()
        dist.init_process_group(platform.backend, store=store, rank=0, world_size=1)
    else:
        os.environ.update(RANK=str(place.rank), WORLD_SIZE=str(place.world_size))
        dist.init_process_group(platform.backend, timeout=_TIMEOUT)
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=tp_size)
    tensor_parallel.model_parallel_cuda_manual_seed(seed)
    return Parallel(
        rank=place.rank,
        world_size=place.world_size,
        tp_size=tp_size,
        tp_rank=parallel_state.get_tensor_model_parallel_rank(),
        tp_group=parallel_state.get_tensor_model_parallel_group(),
        dp_size=parallel_state.get_data_parallel_world_size(),
        dp_rank=parallel_state.get_data_parallel_rank(),
        dp_group=parallel_state.get_data_parallel_group(),
        sp=sp,
    )


def shut_down_parallel() -> None:
    """Leave every process group."""
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()
