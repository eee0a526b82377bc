"""Run the checks of the CUDA build for every kind of GPU, and sum them up.

    .venv/bin/python -m tests.cuda_build.run [CAPABILITY ...]

Logs and results go to build/cuda-build.
"""

import datetime
import importlib.metadata
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from tests.cuda_build import absent_gpu

ROOT = Path(__file__).parents[2]
OUT = ROOT / "build/cuda-build"

CAPABILITIES = ("8.0", "9.0", "10.0")
"""Ampere, Hopper, Blackwell: the kinds of GPUs between which recipes and kernels differ."""
_PACKAGES = (
    "torch",
    "triton",
    "megatron-core",
    "transformer-engine",
    "transformer-engine-torch",
    "nvidia-cudnn-cu13",
    "nvidia-nccl-cu13",
)
_OUTCOMES = ("tests", "skipped", "failures", "errors")


def main(capabilities: list[str]) -> int:
    try:
        importlib.metadata.version("transformer-engine-torch")
    except importlib.metadata.PackageNotFoundError:
        print("these checks need the learner's GPU environment: make clean, then again with GPU=1")
        return 2
    absent_gpu.build(OUT)
    codes = {capability: _run(capability) for capability in capabilities}
    print("\n".join(_summary(list(codes))))
    return int(any(codes.values()))


def _run(capability: str) -> int:
    # What concerns the servers does not depend on the learner's GPU.
    once = [] if capability == "9.0" else ["--ignore", "tests/cuda_build/test_serving.py"]
    result = OUT / f"{capability}.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-W", "ignore", f"--junitxml={result}", *once]
    variables = absent_gpu.environment(OUT, capability) | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "tests/cuda_build"], cwd=ROOT, env=os.environ | variables
    ).returncode


def _summary(capabilities: list[str]) -> list[str]:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    lines = [f"{datetime.date.today()}: {versions}"]
    for capability in capabilities:
        suite = ElementTree.parse(OUT / f"{capability}.xml").getroot().find("testsuite")
        assert suite is not None
        counts = ", ".join(f"{suite.attrib[kind]} {kind}" for kind in _OUTCOMES)
        lines.append(f"capability {capability}: {counts}, {float(suite.attrib['time']):.0f} s")
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(CAPABILITIES)))
