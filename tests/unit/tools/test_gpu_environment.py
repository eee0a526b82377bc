"""Environments on GPUs: what `make env GPU=1` would run, and the versions it pins."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]
ENGINE, APEX = ROOT / "tools/build_transformer_engine.sh", ROOT / "tools/build_apex.sh"
SCRIPTS = [*(ROOT / "tools").glob("*.sh"), *(ROOT / "launchers/containers").glob("*.sh")]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Have make print the commands that it would run for a fresh environment."""
    command = ["make", "--dry-run", "--always-make", *arguments]
    environment = {**os.environ, "MAKEFLAGS": ""}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def planned(*arguments: str) -> str:
    done = make(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def pins(name: str) -> dict[str, str]:
    """Return the versions of a file of constraints, all of which are exact."""
    text = (ROOT / "constraints" / name).read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+-]+", line) for line in lines)
    return dict(line.lower().replace("_", "-").split("==") for line in lines)


def test_the_extension_is_built_once_and_found_among_the_wheels():
    commands = planned(".venv/.stamp", "GPU=1")
    assert "-c constraints/gpu-learn.txt -e '.[learn,dev]'" in commands
    assert "|| tools/build_transformer_engine.sh .venv/bin/python wheels" in commands
    assert "--find-links wheels -e '.[gpu]'" in commands


def test_the_serving_environment_is_the_whole_list_and_nothing_else():
    commands = planned(".venv-serve/.stamp", "GPU=1")
    assert "--no-deps -r constraints/gpu-serve.txt" in commands
    assert "tools/link_cuda_home.sh .venv-serve/bin/python .venv-serve/cuda" in commands


def test_apex_is_built_only_for_whoever_names_its_source():
    assert "apex" not in planned("env", "GPU=1")
    commands = planned("env", "GPU=1", "APEX=/src/apex")
    assert "|| tools/build_apex.sh /src/apex .venv/bin/python wheels" in commands
    assert "--no-deps --force-reinstall wheels/apex-*.whl" in commands


def test_the_learners_pins_are_within_what_the_package_asks_for():
    learn = pins("gpu-learn.txt")
    engine = learn["transformer-engine"]
    assert (2, 9) <= tuple(map(int, engine.split(".")[:2])) < (2, 12)  # setup.py, extra gpu
    assert learn["transformer-engine-torch"] == learn["transformer-engine-cu13"] == engine
    assert learn["megatron-core"].startswith("0.16.")


def test_both_ends_of_the_broadcast_have_the_same_torch_nccl_and_cudnn():
    learn, serve = pins("gpu-learn.txt"), pins("gpu-serve.txt")
    nvidia = {name for name in learn if name.startswith("nvidia-")}
    assert {"nvidia-nccl-cu13", "nvidia-cudnn-cu13", "nvidia-cuda-runtime"} <= nvidia
    for name in ["torch", "triton", "cuda-toolkit", *nvidia]:
        assert serve[name] == learn[name], name


def test_both_environments_and_the_compiler_are_of_cuda_13():
    learn, serve = pins("gpu-learn.txt"), pins("gpu-serve.txt")
    for name in ("cuda-toolkit", "nvidia-cuda-runtime", "nvidia-cuda-nvrtc"):
        assert learn[name].startswith("13.")
    compiler = re.findall(
        r"^(nvidia-\S+)==(\S+)$", (ROOT / "constraints/cuda-build.txt").read_text(), re.MULTILINE
    )
    assert len(compiler) == 4
    assert all(serve[name] == version for name, version in compiler)


@pytest.mark.parametrize("gpu", ["", "GPU=1"])
def test_an_offline_environment_asks_no_index(gpu, tmp_path):
    (tmp_path / "a-1-py3-none-any.whl").touch()
    commands = planned("env", "OFFLINE=1", f"WHEELS={tmp_path}", *filter(None, [gpu]))
    installs = [line for line in commands.splitlines() if "pip install" in line]
    assert len(installs) >= 3
    assert all(f"--no-index --find-links {tmp_path}" in line for line in installs)


def test_an_offline_environment_without_wheels_is_refused(tmp_path):
    done = make("env", "OFFLINE=1", f"WHEELS={tmp_path}")
    assert done.returncode != 0
    assert f"OFFLINE=1 installs from the folder {tmp_path}, which has no wheels" in done.stderr


def test_wheels_of_cpus_and_of_gpus_do_not_meet():
    assert "--wheel-dir wheels/cpu" in planned("wheels")
    commands = planned("wheels", "GPU=1")
    assert "wheels/cpu" not in commands and "-r constraints/cuda-build.txt" in commands


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is built for CUDA")
def test_the_build_is_refused_without_cudas_torch():
    done = subprocess.run([ENGINE, sys.executable], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "is built for CUDA 0; this script has compilers for CUDA 13 only" in done.stderr


def test_a_folder_that_is_not_nvidias_apex_is_refused(tmp_path):
    (tmp_path / "apex").mkdir()  # as the package index's project of that name has it
    done = subprocess.run([APEX, tmp_path, sys.executable], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"{tmp_path} is not the source of NVIDIA apex" in done.stderr
    assert "clone github.com/NVIDIA/apex" in done.stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_scripts_are_sound_shell(script):
    done = subprocess.run(["shellcheck", "-x", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout
