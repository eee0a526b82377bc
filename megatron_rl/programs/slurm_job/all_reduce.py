"""``megatron-rl all-reduce CONFIG``: a sum over the learner's nodes, and its bandwidth."""

import argparse
import os
import time
from datetime import timedelta

import torch
import torch.distributed as dist

from megatron_rl.config import RunConfig
from megatron_rl.placement.node_facts import ALL_REDUCE_RESULT
from megatron_rl.run_dir import RunDir, write_json

_NUM_BYTES = {"cuda": 256 * 2**20, "cpu": 16 * 2**20}
_REPEATS = 3
_FEW = 1024
_TIMEOUT = timedelta(seconds=45)


def main(config: RunConfig, options: argparse.Namespace) -> int:
    """Join the other nodes, reduce, and let the first one write the bandwidth down."""
    rank, size = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size))
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=_TIMEOUT)
    if device == "cuda":
        _reduce_over_gloo(rank, size)
    seconds, bandwidth = measure_all_reduce(torch.device(device), num_bytes=_NUM_BYTES[device])
    if rank == 0:
        path = RunDir(config.run_dir).preflight / ALL_REDUCE_RESULT
        write_json(path, {"seconds": seconds, "gb_s": bandwidth, "nodes": size})
        print(f"all-reduce over {size} nodes: {bandwidth:.2f} GB/s", flush=True)
    dist.destroy_process_group()
    return 0


def measure_all_reduce(device: torch.device, *, num_bytes: int) -> tuple[float, float]:
    """Return the seconds of a sum over the default group, and its bandwidth in GB/s; a collective.

    The bandwidth is that of what leaves each rank, as of what enters it.
    """
    rank, size = dist.get_rank(), dist.get_world_size()
    values = torch.full((num_bytes // 4,), float(rank), device=device)
    dist.all_reduce(values)  # connections are made now
    # 0 + 1 + ... + (size - 1)
    assert float(values[0]) == size * (size - 1) / 2, "the network gives wrong sums"
    started = time.perf_counter()
    for _ in range(_REPEATS):
        dist.all_reduce(values)
    float(values[0])  # waits for the device
    seconds = (time.perf_counter() - started) / _REPEATS
    # Each byte leaves and enters a rank 2 (n - 1) / n times in a ring.
    return seconds, num_bytes * 2 * (size - 1) / size / seconds / 1e9


def _reduce_over_gloo(rank: int, size: int) -> None:
    """Use the other network as well: checkpoints and the exchange of batches go over gloo."""
    print("gloo ...", flush=True)
    values = torch.full((_FEW,), float(rank))
    dist.all_reduce(values, group=dist.new_group(backend="gloo", timeout=_TIMEOUT))
    assert float(values[0]) == size * (size - 1) / 2, "gloo gives wrong sums"
    print("gloo works; nccl ...", flush=True)
