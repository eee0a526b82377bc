"""A checkpoint of the host continues on the GPU, and the GPU's continues on the host."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def on_the_host(action: str, *paths: Path) -> dict:
    subprocess.run(
        [sys.executable, str(ROOT / "tests/gpu/cpu_side.py"), action, *map(str, paths)],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=240,
    )
    return torch.load(paths[-1])


def assert_same_policy(learner, sequences, host):
    for name, weight in learner.named_weights():
        assert torch.equal(weight.cpu(), host["weights"][name]), name
    difference = (torch.cat(learner.logprobs(sequences)) - host["logprobs"]).abs()
    assert difference.mean() < 0.05  # as in test_learner_gpu: bf16 on both sides


def test_weights_and_optimiser_travel_both_ways(make_learner, model_folder, sequences, tmp_path):
    checkpoints = tmp_path / "checkpoints"
    host = on_the_host("write", model_folder, checkpoints, tmp_path / "host.pt")
    learner = make_learner()
    assert learner.restore(checkpoints) == (1, {"by": "host"})
    assert_same_policy(learner, sequences, host)
    assert learner.update_supervised(sequences)["sft/skipped_steps"] == 0
    learner.save(checkpoints, 2, extra={"by": "gpu"})
    host = on_the_host("read", model_folder, checkpoints, tmp_path / "again.pt")
    assert_same_policy(learner, sequences, host)


def test_an_fp8_checkpoint_loads_without_transformer_engine(
    make_learner, model_folder, sequences, tmp_path
):
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("no FP8 on this GPU")
    pytest.importorskip("transformer_engine")
    checkpoints = tmp_path / "checkpoints"
    learner = make_learner(precision="fp8")
    learner.update_supervised(sequences)
    learner.save(checkpoints, 2, extra={"by": "gpu"})
    host = on_the_host("read", model_folder, checkpoints, tmp_path / "host.pt")
    for name, weight in learner.named_weights():
        assert torch.equal(weight.cpu(), host["weights"][name]), name


def test_mfu_is_printed_for_a_shape(tmp_path, capfd):
    subprocess.run(
        [
            *(sys.executable, str(ROOT / "benchmarks/mfu.py"), "--steps", "2", "--rows", "2"),
            *("--shape", "4,1024,16,8,3072,32000", "--length", "1024"),
            *("--output", str(tmp_path)),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
        timeout=240,
    )
    assert "MFU %" in capfd.readouterr().out
