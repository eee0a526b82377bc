"""`make demo` on a machine with a GPU asks for a type that its servers can compute in."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from megatron_rl.config import RunConfig, load_config
from megatron_rl.errors import ConfigError
from megatron_rl.generation.server_command import check_dtype

ROOT = Path(__file__).parents[3]


def config_of_the_demo(has_gpu: str) -> RunConfig:
    """Return the configuration that `make demo` would train, without running anything."""
    done = subprocess.run(
        ["make", "--dry-run", "demo", f"HAS_GPU={has_gpu}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    (line,) = [line for line in done.stdout.splitlines() if "megatron-rl train" in line]
    _, _, path, *words = shlex.split(line)
    assert words[::2] == ["--set"] * (len(words) // 2)
    return load_config(ROOT / path, words[1::2])


pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make here")


def test_the_demo_on_a_gpu_serves_what_its_servers_can_compute():
    config = config_of_the_demo("yes")
    check_dtype(config.model.dtype, device="cuda")
    assert config.learner.precision is None  # follows model.dtype


def test_the_demo_on_a_cpu_stays_in_float32():
    config = config_of_the_demo("")
    assert config.model.dtype == "float32"
    with pytest.raises(ConfigError):
        check_dtype(config.model.dtype, device="cuda")
