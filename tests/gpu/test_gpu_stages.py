"""Every stage of gpu-check on the GPUs of this machine, as the command itself runs it."""

import os
from pathlib import Path

import pytest
import torch

from megatron_rl.programs.builders.hardware import visible_gpus
from megatron_rl.programs.gpu_stages.table import KEEP_SERVER, STAGES
from megatron_rl.programs.stage_runs.runner import StageRunner
from megatron_rl.programs.stage_runs.stage import Place

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    root = tmp_path_factory.mktemp("gpu-check")
    place = Place(
        folder=root,
        shared=root / "models",
        is_rehearsal=False,
        gpus=tuple(visible_gpus(os.environ)),
        serving_python=ROOT / ".venv-serve/bin/python",
    )
    with StageRunner(root, place, keep=KEEP_SERVER) as runner:
        yield runner


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_it_passes(stage, runner, monkeypatch):
    monkeypatch.chdir(ROOT)
    result = runner.run(stage)
    if result.status == "skipped":
        pytest.skip(result.reason)
    assert result.status == "passed", f"{result.reason}\n{result.tail}"
