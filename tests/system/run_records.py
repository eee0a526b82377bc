"""What a run leaves behind, read for a test, and the wait until it has got going."""

import json
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from tiny_run import Program, wait_for

from megatron_rl.batch import Batch, load_batch
from megatron_rl.run_dir import RunDir, read_jsonl

DP2 = ("--set", "learner.num_processes=2")


def steps_of(run_dir: RunDir) -> list[int]:
    return [record["step"] for record in read_jsonl(run_dir.metrics)]


def last_step(run_dir: RunDir) -> int:
    return max(steps_of(run_dir), default=0)


def batches_of(run_dir: RunDir) -> list[Batch]:
    return [load_batch(path) for path in sorted(run_dir.batches.glob("*.safetensors"))]


def latest_checkpoint(run_dir: RunDir) -> int:
    return json.loads((run_dir.checkpoints / "latest.json").read_text())["step"]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_no_group_is_trained_twice(run_dir: RunDir) -> None:
    groups = [set(batch.groups_N.tolist()) for batch in batches_of(run_dir)]
    assert sum(map(len, groups)) == len(set().union(*groups))


def wait_for_steps(run_dir: RunDir, number: int, train: Program) -> None:
    """Wait until the life of the run that has just begun has published ``number`` steps.

    Steps whose batches an earlier life has recorded may be trained before any server is up.
    """
    born = time.time()

    def is_there() -> bool:
        assert train.process.poll() is None, train.finish(within_s=5)[1]
        records = [r for r in read_jsonl(run_dir.metrics) if r["time"] > born]
        return sum(record["publish/servers"] > 0 for record in records) >= number

    wait_for(is_there)
