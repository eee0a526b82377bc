"""The command gpu-check: what it refuses and what it lists."""

import json
import sys
from pathlib import Path

import pytest

from megatron_rl import cli
from megatron_rl.programs.gpu_stages.table import STAGES
from megatron_rl.programs.stage_runs.machine import machine_facts

NO_GPU = (
    "megatron-rl: error: gpu-check finds no GPU on this machine (nvidia-smi -L lists none, or "
    "CUDA_VISIBLE_DEVICES hides them); add --rehearse to try every stage on the CPU\n"
)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def test_without_a_gpu_it_says_how_to_go_on(no_gpu, capsys, tmp_path):
    assert cli.main(["gpu-check", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == NO_GPU
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "layer"], "--only layer: there is no such stage; did you mean layers?"),
        (["--skip", "qqq"], "--skip qqq: there is no such stage; --list names them"),
        (["--only", "demo", "--skip", "demo"], "--only and --skip leave no stage"),
    ],
)
def test_a_stage_that_is_not_there_is_refused(arguments, message, capsys):
    assert cli.main(["gpu-check", "--rehearse", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_earlier_check_is_not_written_over(tmp_path, capsys):
    (tmp_path / "results.json").write_text("{}")
    assert cli.main(["gpu-check", "--rehearse", "--out", str(tmp_path)]) == 2
    assert f"--out {tmp_path} is not empty; name a new folder" in capsys.readouterr().err


def test_the_list_names_every_stage_with_its_needs(no_gpu, capsys):
    assert cli.main(["gpu-check", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [stage.name for stage in STAGES]
    assert any("needs 2 GPUs" in line for line in lines)
    assert any("needs a server with CUDA graphs" in line for line in lines)


def test_names_are_those_of_files_and_are_unique():
    names = [stage.name for stage in STAGES]
    assert len(set(names)) == len(names)
    assert all(name.replace("-", "").isalnum() for name in names)


def test_stages_of_one_server_are_neighbours():
    servers = [stage.server for stage in STAGES]
    starts = [b for a, b in zip([None, *servers], servers, strict=False) if b not in (None, a)]
    assert len(set(starts)) == len(starts)


def test_secrets_of_the_environment_are_not_kept(monkeypatch):
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv("SGLANG_API_KEY", "hush")
    monkeypatch.setenv("WANDB_API_KEY", "hush")
    facts = machine_facts()
    assert facts["variables"]["NCCL_DEBUG"] == "INFO"
    assert "hush" not in json.dumps(facts)
    assert Path(sys.executable).exists()
