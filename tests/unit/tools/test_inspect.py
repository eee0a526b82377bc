"""The inspection tools on small real files."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

from megatron_rl.batch import make_batch, save_batch
from megatron_rl.types import Cursor
from tests.unit.records import make_group, make_sample

pytestmark = pytest.mark.lengthy

TOOLS = Path(__file__).parents[3] / "tools"


def run_tool(name: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(TOOLS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=TOOLS.parent)


def write_batch(path: Path) -> Path:
    """Two groups, three sequences of 3, 4 and 4 tokens, versions 2 to 4."""
    batch = make_batch(
        [
            make_group(4, make_sample(versions=[3]), make_sample(versions=[3, 4])),
            make_group(7, make_sample(versions=[2, 2, 2], correct=False), prompt_ids=[9]),
        ],
        advantages_N=np.array([1, -1, 0.5], dtype=np.float32),
        weights_N=np.array([0.25, 0.25, 1 / 3], dtype=np.float32),
        minibatches_N=np.array([0, 0, 1]),
        cursor=Cursor(next_index=9, outstanding=(5, 8)),
        metrics={"reward/total": 0.5},
    )
    save_batch(path, batch)
    return path


def test_a_batch_is_summed_up_with_its_lengths_versions_and_rewards(tmp_path):
    tool = run_tool("inspect_batch.py", write_batch(tmp_path / "batch.safetensors"))
    assert tool.returncode == 0, tool.stderr
    lines = dict(line.split(maxsplit=1) for line in tool.stdout.splitlines()[:10])
    assert lines["sequences"] == "3 in 2 groups"
    assert lines["tokens"] == "11, of completions 6"  # 3 + 4 + 4; 1 + 2 + 3
    assert lines["lengths"].startswith("3 .. 4, mean 3.667 (completions 1 .. 3, mean 2)")
    assert lines["versions"] == "2: 3, 3: 2, 4: 1 tokens"
    assert lines["correct"] == "2 of 3"
    assert lines["cursor"] == "next group 9, 2 open"
    assert "prompt       [5, 6]\ncompletion   [100]" in tool.stdout


def test_a_damaged_batch_is_named_and_not_traced(tmp_path):
    path = tmp_path / "batch.safetensors"
    path.write_bytes(b"nothing of the kind")
    tool = run_tool("inspect_batch.py", path)
    assert tool.returncode == 1
    assert str(path) in tool.stderr and "Traceback" not in tool.stderr


def test_a_checkpoint_is_listed_with_the_shapes_of_its_tensors(tmp_path):
    folder = tmp_path / "step_000004"
    state = {"layer.weight": torch.zeros(3, 5), "layer.scale": torch.zeros(7, dtype=torch.bfloat16)}
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    (tmp_path / "latest.json").write_text('{"step": 4}')
    tool = run_tool("inspect_checkpoint.py", tmp_path)
    assert tool.returncode == 0, tool.stderr
    lines = [line.split() for line in tool.stdout.splitlines()]
    assert lines[0][:2] == ["step", "4"] and lines[0][-1] == "latest"
    assert ["layer.scale", "bfloat16", "(7,)", "1", "part"] in lines
    assert ["layer.weight", "float32", "(3,", "5)", "1", "part"] in lines
    assert tool.stdout.splitlines()[-1].startswith("2 tensors, 0.0 MB")


def test_a_folder_without_checkpoints_is_named(tmp_path):
    tool = run_tool("inspect_checkpoint.py", tmp_path)
    assert tool.returncode == 1
    assert f"{tmp_path}: no checkpoint there" in tool.stderr
