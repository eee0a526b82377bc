"""Machine and versions of a check, as a reader of its results needs them; free of torch."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from megatron_rl import __version__
from megatron_rl.programs.builders.hardware import installed_version
from megatron_rl.programs.checks.gpu_machine import cuda_packages, driver_cuda, find_toolchain

_PACKAGES = ("torch", "megatron-core", "transformer-engine", "transformers", "triton")
_GPU_FIELDS = ("index", "name", "memory.total", "compute_cap", "driver_version")
_PREFIXES = ("NCCL_", "CUDA_", "NVTE_", "SGLANG_", "SLURM_JOB_NUM_NODES", "SLURM_JOB_NODELIST")
_SECRETS = ("KEY", "TOKEN", "SECRET", "PASSWORD")
_PROBE = "import importlib.metadata as m; print(m.version('sglang'))"
_TIMEOUT_S = 60
_GIB = 2**30


def machine_facts() -> dict[str, Any]:
    """Return the machine: cores, memory, GPUs as the driver lists them, variables."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / _GIB, 1),
        "system": platform.platform(),
        "gpus": _gpus(),
        "variables": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(_PREFIXES) and not any(word in name for word in _SECRETS)
        },
    }


def version_facts(serving_python: Path) -> dict[str, Any]:
    """Return the versions of both environments, and of what the driver and compilers are."""
    learner = {package: installed_version(package) for package in _PACKAGES}
    learning, serving = cuda_packages(Path(sys.executable)), cuda_packages(serving_python)
    tools = find_toolchain(os.environ)
    return {
        "megatron-rl": __version__,
        "python": platform.python_version(),
        **learner,
        "nccl": None if learning is None else ", ".join(learning.nccl) or None,
        "sglang": _sglang(serving_python),
        "nccl of the server": None if serving is None else ", ".join(serving.nccl) or None,
        "cuda of the driver": driver_cuda(_output_of(["nvidia-smi"])),
        "cuda of torch": None if learning is None else learning.torch_cuda,
        "nvcc": str(tools.cuda_home) if tools.has_nvcc else None,
        "ninja": tools.ninja,
        "c++": tools.cxx,
    }


def _gpus() -> list[dict[str, str]]:
    if shutil.which("nvidia-smi") is None:
        return []
    query = f"--query-gpu={','.join(_GPU_FIELDS)}"
    listing = _output_of(["nvidia-smi", query, "--format=csv,noheader"])
    rows = [line.split(", ") for line in listing.splitlines()]
    return [dict(zip(_GPU_FIELDS, row, strict=False)) for row in rows]


def _sglang(python: Path) -> str | None:
    return _output_of([str(python), "-c", _PROBE]).strip() or None


def _output_of(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
