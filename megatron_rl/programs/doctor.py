"""``megatron-rl doctor``: list what is installed and what is missing, with the remedy."""

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from megatron_rl.config import GeneratorsConfig, RunConfig, WeightsConfig
from megatron_rl.errors import VerifierError
from megatron_rl.learner.device.apex import REMEDY, find_apex
from megatron_rl.programs.builders.hardware import (
    describe_precisions,
    installed_version,
    local_device,
    visible_gpus,
)
from megatron_rl.programs.checks.finding import Finding
from megatron_rl.programs.checks.gpu_machine import gpu_findings, look_at_machine
from megatron_rl.programs.checks.kernel_compiler import find_kernel_compiler, python_headers
from megatron_rl.programs.checks.quantized_servers import why_no_block_fp8
from megatron_rl.sandbox.describe import describe_sandbox

_GIB = 2**30
_PROBE_TIMEOUT_S = 60
_PROBE = "import importlib.metadata as m, platform; print(platform.python_version(), m.version(%r))"


def main(config: RunConfig | None, options: argparse.Namespace) -> int:
    """Print every finding; return 0 when a run can work here, else 1."""
    generators = GeneratorsConfig() if config is None else config.generators
    gpus, serving_python = _gpus(), generators.python.absolute()
    findings = [
        *_machine(gpus),
        *_learner(has_gpu=bool(gpus)),
        _sandbox(),
        _server(serving_python),
        _weights(config, has_gpu=bool(gpus)),
    ]
    if gpus:
        machine = look_at_machine(
            num_gpus=len(visible_gpus(os.environ)),
            device=local_device(),
            flash_attn=installed_version("flash-attn"),
            has_apex=find_apex().kind == "nvidia",
            learner_python=Path(sys.executable),
            serving_python=serving_python,
        )
        findings += gpu_findings(machine, config)
    for finding in findings:
        _show(finding)
    is_fatal = any(finding.is_fatal for finding in findings)
    print("something is missing, see above" if is_fatal else "ready")
    return int(is_fatal)


def _show(finding: Finding) -> None:
    print(f"{finding.name:20}{finding.value}")
    if finding.remedy:
        print(f"{'':20}-> {finding.remedy}")


def _machine(gpus: list[str]) -> Iterator[Finding]:
    yield Finding(name="cores", value=str(len(os.sched_getaffinity(0))))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Finding(name="memory", value=f"{memory / _GIB:.1f} GiB")
    yield Finding(name="free disk", value=f"{shutil.disk_usage(Path.cwd()).free / _GIB:.1f} GiB")
    for gpu in gpus or ["none"]:
        yield Finding(name="gpu", value=gpu)


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    fields = "name,memory.total,compute_cap"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S)
    except subprocess.TimeoutExpired:  # a wedged driver; torch would hang as well
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def _learner(*, has_gpu: bool) -> Iterator[Finding]:
    yield Finding(name="python", value=platform.python_version())
    yield _torch(has_gpu=has_gpu)
    needed = {
        "megatron-core": "pip install 'megatron-rl[learn]'",
        "triton": "pip install --no-deps triton (megatron-core imports it)",
        "psutil": "pip install 'megatron-rl[learn]' (Megatron's checkpoints need it)",
    }
    for package, remedy in needed.items():
        version = installed_version(package)
        yield (
            Finding(name=package, value="missing", remedy=remedy, is_fatal=True)
            if version is None
            else Finding(name=package, value=version)
        )
    absent = "missing" if has_gpu else "none (not needed on a CPU)"
    engine = installed_version("transformer-engine")
    remedy = "make env GPU=1, or pip install --no-build-isolation 'megatron-rl[gpu]'"
    if engine is None:
        yield Finding(name="transformer-engine", value=absent, remedy=remedy if has_gpu else "")
    else:
        yield Finding(name="transformer-engine", value=engine)
    yield _apex(has_gpu=has_gpu)
    if has_gpu:
        yield find_kernel_compiler(os.environ, headers=python_headers())
    device = local_device()
    yield Finding(name="precision", value=describe_precisions(device))
    if has_gpu:
        reason = why_no_block_fp8(device.capability)
        value = "offered" if reason is None else f"not offered: {reason}"
        yield Finding(name="block FP8 servers", value=value)


def _apex(*, has_gpu: bool) -> Finding:
    apex = find_apex()
    if apex.kind == "unrelated":
        value = f"{apex.folder}: the package index's unrelated project, not NVIDIA's"
        return Finding(name="apex", value=value, remedy=REMEDY, is_fatal=True)
    if apex.kind == "nvidia":
        return Finding(name="apex", value=f"NVIDIA's, {apex.folder}")
    if not has_gpu:
        return Finding(name="apex", value="none (not needed on a CPU)")
    remedy = "optional: make env GPU=1 APEX=FOLDER, a clone of github.com/NVIDIA/apex"
    return Finding(name="apex", value="missing", remedy=remedy)


def _torch(*, has_gpu: bool) -> Finding:
    version = installed_version("torch")
    if version is None:
        remedy = "pip install 'megatron-rl[learn]'"
        return Finding(name="torch", value="missing", remedy=remedy, is_fatal=True)
    if not has_gpu:
        return Finding(name="torch", value=version)
    import torch  # late: takes seconds, and only a machine with a GPU has a question for it

    if torch.cuda.is_available():
        return Finding(name="torch", value=f"{version}, CUDA {torch.version.cuda}")
    remedy = "install a CUDA build of torch that suits the driver (nvidia-smi shows it)"
    return Finding(name="torch", value=f"{version} sees no GPU", remedy=remedy, is_fatal=True)


def _sandbox() -> Finding:
    try:
        return Finding(name="sandbox", value=describe_sandbox())
    except VerifierError as error:
        remedy = f"needed for code problems only: {error}"
        return Finding(name="sandbox", value="none", remedy=remedy)


def _weights(config: RunConfig | None, *, has_gpu: bool) -> Finding:
    """Say by which way a run of this machine, or of a configuration, sends new weights."""
    weights = WeightsConfig() if config is None else config.weights
    if weights.transport == "disk":
        return Finding(name="weights", value="through a folder")
    if weights.sends_shards(on_cpu=not has_gpu):
        value = "by shards, from the learner ranks that hold them to the server ranks"
        return Finding(name="weights", value=value)
    return Finding(name="weights", value="whole tensors by broadcast from the learner's rank 0")


def _server(python: Path) -> Finding:
    """Ask the serving interpreter itself: its packages are not this environment's."""
    if not os.access(python, os.X_OK):
        return Finding(
            name="sglang",
            value=f"no interpreter {python}",
            remedy="make env, or set generators.python",
            is_fatal=True,
        )
    command = [str(python), "-c", _PROBE % "sglang"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return Finding(
            name="sglang",
            value=f"{python} did not answer within {_PROBE_TIMEOUT_S} s",
            remedy="run it by hand",
            is_fatal=True,
        )
    if done.returncode:
        return Finding(
            name="sglang",
            value=f"not in {python}",
            remedy="make env, or set generators.python",
            is_fatal=True,
        )
    python_version, version = done.stdout.split()
    return Finding(name="sglang", value=f"{version} (Python {python_version}, {python})")
