"""Environment of a learner on GPUs: what `make env GPU=1` would run, and the versions it pins."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "tools/build_transformer_engine.sh"


def planned(*arguments: str) -> str:
    """Return the commands that make would run for a fresh environment."""
    command = ["make", "--dry-run", "--always-make", ".venv/.stamp", *arguments]
    environment = {**os.environ, "MAKEFLAGS": ""}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_extension_is_built_once_and_found_among_the_wheels():
    commands = planned("GPU=1")
    assert "-c constraints/gpu-learn.txt -e '.[learn,dev]'" in commands
    assert "|| tools/build_transformer_engine.sh .venv/bin/python wheels" in commands
    assert "--find-links wheels -e '.[gpu]'" in commands


def test_the_pins_are_exact_and_within_what_the_package_asks_for():
    text = (ROOT / "constraints/gpu-learn.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+-]+", line) for line in lines)
    pins = dict(line.lower().replace("_", "-").split("==") for line in lines)
    engine = pins["transformer-engine"]
    assert (2, 9) <= tuple(map(int, engine.split(".")[:2])) < (2, 12)  # setup.py, extra gpu
    assert pins["transformer-engine-torch"] == pins["transformer-engine-cu13"] == engine
    assert pins["megatron-core"].startswith("0.16.")


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is built for CUDA")
def test_the_build_is_refused_without_cudas_torch():
    done = subprocess.run([SCRIPT, sys.executable], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "is built for CUDA 0; this script has compilers for CUDA 13 only" in done.stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_the_script_is_sound_shell():
    done = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
