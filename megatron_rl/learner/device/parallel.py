"""Process groups of a layout, and this rank's coordinates in it."""

import datetime
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel

from megatron_rl.learner.device.platform import Platform
from megatron_rl.parallelism.layouts import Layout, check_world_size

_TIMEOUT = datetime.timedelta(minutes=30)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parallel:
    """This rank's place in the layout, and the groups it talks to."""

    layout: Layout
    rank: int
    world_size: int
    tp_rank: int
    tp_group: Any
    pp_rank: int
    pp_group: Any
    cp_rank: int
    cp_group: Any
    dp_size: int
    """Ranks that see different rows."""
    dp_rank: int
    token_group: Any
    """Ranks among which the tokens of a minibatch are divided: data and context parallel."""
    ep_rank: int
    ep_group: Any
    etp_rank: int
    etp_group: Any

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and talks to generators."""
        return self.rank == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether this rank computes logits."""
        return self.pp_rank == self.layout.pp - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class RankInfo:
    """This process among those of the job, as its launcher says."""

    rank: int
    world_size: int
    local_rank: int


def rank_from_environment(environment: Mapping[str, str]) -> RankInfo:
    """Read torchrun's variables, or srun's with one task per rank; alone when there are none."""
    for rank, size, local in (
        ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
        ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    ):
        if rank in environment and size in environment:
            return RankInfo(
                rank=int(environment[rank]),
                world_size=int(environment[size]),
                local_rank=int(environment[local]),
            )
    return RankInfo(rank=0, world_size=1, local_rank=0)


def initialize_parallel(
    rank_info: RankInfo, platform: Platform, layout: Layout, *, seed: int
) -> Parallel:
    """Join the default process group and build Megatron's groups.

    Raises:
        ConfigError: the number of ranks does not make whole copies of the model.
    """
    check_world_size(layout, world_size=rank_info.world_size)
    if rank_info.world_size == 1:
        # No other rank has to find this one, so it need not occupy a well-known port.
        store = dist.HashStore()
        dist.init_process_group(platform.backend, store=store, rank=0, world_size=1)
    else:
        os.environ.update(RANK=str(rank_info.rank), WORLD_SIZE=str(rank_info.world_size))
        dist.init_process_group(platform.backend, timeout=_TIMEOUT)
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=None if layout.vpp == 1 else layout.vpp,
        context_parallel_size=layout.cp,
        expert_model_parallel_size=layout.ep,
        expert_tensor_parallel_size=layout.etp,
    )
    tensor_parallel.model_parallel_cuda_manual_seed(seed)
    return Parallel(
        layout=layout,
        rank=rank_info.rank,
        world_size=rank_info.world_size,
        tp_rank=parallel_state.get_tensor_model_parallel_rank(),
        tp_group=parallel_state.get_tensor_model_parallel_group(),
        pp_rank=parallel_state.get_pipeline_model_parallel_rank(),
        pp_group=parallel_state.get_pipeline_model_parallel_group(),
        cp_rank=parallel_state.get_context_parallel_rank(),
        cp_group=parallel_state.get_context_parallel_group(),
        dp_size=parallel_state.get_data_parallel_world_size(),
        dp_rank=parallel_state.get_data_parallel_rank(),
        token_group=parallel_state.get_data_parallel_group(with_context_parallel=True),
        ep_rank=parallel_state.get_expert_model_parallel_rank(),
        ep_group=parallel_state.get_expert_model_parallel_group(),
        etp_rank=parallel_state.get_expert_tensor_parallel_rank(),
        etp_group=parallel_state.get_expert_tensor_parallel_group(),
    )


def shut_down_parallel() -> None:
    """Leave every process group."""
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


def from_last_stage(value: Any, parallel: Parallel) -> Any:
    """Return the last pipeline stage's ``value``, which is on the host, on every stage."""
    if parallel.layout.pp == 1:
        return value
    box = [value]
    last = dist.get_process_group_ranks(parallel.pp_group)[-1]
    dist.broadcast_object_list(box, src=last, group=parallel.pp_group)
    return box[0]
