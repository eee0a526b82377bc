"""What the ranks of test_conversion.py do: load and save models at several layouts."""

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from tiny_policy import CONFIG, MOE_CONFIG, learner_at, make_batches, weights_of

from megatron_rl.conversion.families import model_spec, read_model_spec
from megatron_rl.learner.checkpoint.megatron_format import content_metadata
from megatron_rl.learner.device.parallel import (
    initialize_parallel,
    rank_from_environment,
    shut_down_parallel,
)
from megatron_rl.learner.device.platform import CpuPlatform
from megatron_rl.learner.model.gpt_model import build_frozen_chunks, transformer_config
from megatron_rl.parallelism.layouts import Layout
from megatron_rl.run_dir import write_json


def save_on_two_ranks(argument: Any) -> None:
    """Do both of the below, since starting the ranks takes longer than either."""
    ports = iter(argument["ports"])
    _train_and_save(Path(argument["trained"]), argument["layouts"], ports)
    for folder, layouts in argument["converted"].items():
        for name, layout in layouts.items():
            _load_and_save(Path(folder), name, layout, next(ports))


def _load_and_save(folder: Path, name: str, layout: Any, port: int) -> None:
    """Load the converted checkpoint of a folder at a layout, and save ``NAME/step_000000`` there.

    What no parameter was given stays zero, and would be seen.
    """
    os.environ["MASTER_PORT"] = str(port)
    platform = CpuPlatform(num_threads=1)
    platform.install()
    sizes = {"tp": 1, "sp": False, "pp": 1, "vpp": 1, "cp": 1, "ep": 1} | layout
    chosen = Layout(**{"etp": sizes["tp"], **sizes})
    parallel = initialize_parallel(rank_from_environment(os.environ), platform, chosen, seed=0)
    spec = read_model_spec(folder)
    config = transformer_config(spec, parallel.layout, dtype=torch.float32, overrides={})
    (chunk,) = build_frozen_chunks(spec, config, parallel, platform)
    for parameter in chunk.parameters():
        parameter.zero_()
    state = {"model": chunk.sharded_state_dict(metadata=content_metadata())}
    loaded = dist_checkpointing.load(state, str(folder / "step_000000"))
    chunk.load_state_dict(loaded["model"], strict=True)
    target = folder / name / "step_000000"
    target.mkdir(parents=True, exist_ok=True)
    dist.barrier()
    state = {"model": chunk.sharded_state_dict(metadata=content_metadata())}
    dist_checkpointing.save(state, str(target), content_metadata=content_metadata())
    shut_down_parallel()


def _train_and_save(folder: Path, layouts: Any, ports: Any) -> None:
    """Train one step and save it, as a run folder with a model folder, at each layout.

    A layout with "ep" is of the mixture of experts.
    """
    for name, layout in layouts.items():
        config = MOE_CONFIG if "ep" in layout else CONFIG
        with learner_at(port=next(ports), spec=model_spec(config), **layout) as learner:
            (batch,) = make_batches(1)
            learner.update(batch)
            learner.save(folder / name / "checkpoints", 1, extra={})
            weights = weights_of(learner)
        if os.environ["RANK"] == "0":
            torch.save(weights, folder / name / "expected.pt")
            write_json(folder / name / "model" / "config.json", config)
            run = {
                "run_dir": str(folder / name),
                "num_steps": 1,
                "model": {"path": str(folder / name / "model")},
                "data": {"train": "none.jsonl"},
            }
            write_json(folder / name / "config.json", run)
