"""What the ranks of test_weight_stream.py do."""

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

from megatron_rl.conversion.families import model_spec, read_model_spec
from megatron_rl.hf_folder import WeightReader
from megatron_rl.learner.device.parallel import (
    initialize_parallel,
    rank_from_environment,
    shut_down_parallel,
)
from megatron_rl.learner.device.platform import CpuPlatform
from megatron_rl.learner.hf_weights import load_weights, random_weights
from megatron_rl.learner.model.gpt_model import build_chunks, transformer_config
from megatron_rl.learner.weight_stream import named_weights
from megatron_rl.parallelism.layouts import Layout


def stream(argument: Any) -> dict[str, Any]:
    """Stream a folder's model at a layout with several batch sizes.

    Args:
        argument: {"folder", "layout": sizes of a Layout, "batches": [bytes]}.

    Returns:
        {bytes: {"names": as streamed, "wrong": names whose tensor differs from the folder's on any
        rank, "collectives": number of gloo operations on rank 0}}
    """
    folder = Path(argument["folder"])
    spec, read = read_model_spec(folder), WeightReader(folder)
    chunks, parallel = _build(spec, argument["layout"])
    load_weights(chunks, spec, parallel, read)
    outcome = {}
    for batch_bytes in argument["batches"]:
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            weights = [
                (name, tensor.clone())
                for name, tensor in named_weights(chunks, spec, parallel, batch_bytes=batch_bytes)
            ]
        wrong = [name for name, tensor in weights if not torch.equal(tensor, read(name))]
        everyones: list[list[str]] = [[]] * parallel.world_size
        dist.all_gather_object(everyones, wrong)
        outcome[batch_bytes] = {
            "names": [name for name, _ in weights],
            "wrong": sorted({name for names in everyones for name in names}),
            "collectives": sum(
                event.count for event in profiler.key_averages() if event.key.startswith("gloo:")
            ),
        }
    shut_down_parallel()
    return outcome


def peak(argument: Any) -> dict[str, int]:
    """Stream a model of random weights; return its bytes and the most bytes held meanwhile.

    Args:
        argument: {"config": config.json, "layout": sizes of a Layout, "batch_bytes"}.
    """
    spec = model_spec(argument["config"])
    chunks, parallel = _build(spec, argument["layout"])
    load_weights(chunks, spec, parallel, random_weights(chunks, spec, parallel, seed=0))
    total = 0
    for _ in range(2):  # what the first time brings along stays
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest resident size
        before = _resident("VmRSS")
        stream = named_weights(chunks, spec, parallel, batch_bytes=argument["batch_bytes"])
        total = sum(tensor.nbytes for _, tensor in stream)
    held = _resident("VmHWM") - before
    shut_down_parallel()
    return {"total": total, "held": held}


def _build(spec: Any, sizes: dict[str, int]) -> tuple[list[torch.nn.Module], Any]:
    platform = CpuPlatform(num_threads=1)
    platform.install()
    layout = Layout(**({"tp": 1, "sp": False, "pp": 1, "vpp": 1, "cp": 1, "ep": 1} | sizes))
    parallel = initialize_parallel(rank_from_environment(os.environ), platform, layout, seed=0)
    config = transformer_config(spec, parallel.layout, dtype=torch.float32, overrides={})
    chunks = build_chunks(
        spec, config, parallel, platform, overlap_grad_reduce=False, overlap_param_gather=False
    )
    return [chunk.module for chunk in chunks], parallel


def _resident(field: str) -> int:
    """Return a line of /proc/self/status in bytes."""
    (line,) = (
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(f"{field}:")
    )
    return int(line.split()[1]) * 1024
