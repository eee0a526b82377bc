"""All-reduce over the GPUs of one machine, by NCCL, and its bandwidth."""

import os

from megatron_rl.programs.gpu_stages.ranks import num_ranks, on_ranks
from megatron_rl.programs.gpu_stages.sizes import sizes_of
from megatron_rl.programs.stage_runs.result import Figure, Outcome
from megatron_rl.programs.stage_runs.stage import Place

_RANK_WORK = "megatron_rl.programs.gpu_stages.all_reduce:be_rank"


def check(place: Place) -> Outcome:
    """Sum over all ranks; a wrong sum fails the rank that sees it."""
    count = num_ranks(place)
    outcome = on_ranks(place, _RANK_WORK, "ranks", count=count)
    notes = []
    if place.is_rehearsal:
        notes.append("CPU twin: gloo instead of NCCL")
    elif count == 1:
        notes.append("one GPU: NCCL starts, and has no other rank to talk to")
    return Outcome(figures=outcome.figures, notes=notes)


def be_rank(place: Place) -> Outcome:
    """Take part as one rank."""
    # Late: the process that starts the ranks has no use for torch.
    import torch.distributed as dist

    from megatron_rl.learner.device.platform import detect_platform
    from megatron_rl.programs.slurm_job.all_reduce import measure_all_reduce

    platform = detect_platform(cpu_threads=1, local_rank=int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(platform.backend)
    size = dist.get_world_size()
    seconds, bandwidth = measure_all_reduce(platform.device, num_bytes=sizes_of(place).num_bytes)
    dist.destroy_process_group()
    return Outcome(
        figures=[
            Figure(name="ranks", value=size),
            Figure(name="all-reduce", value=seconds, unit="s"),
            Figure(name="bandwidth of a rank", value=bandwidth, unit="GB/s"),
        ]
    )
