"""GPU machine as ``doctor`` sees it: driver, NCCL, InfiniBand, compilers, and what a run needs.

What is found is a plain record, and what follows from it a function of that record. No GPU is
touched, and this process imports no torch.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from megatron_rl.config import RunConfig
from megatron_rl.learner.device.precision import Device
from megatron_rl.programs.checks.finding import Finding
from megatron_rl.programs.checks.infiniband import (
    InfiniBand,
    infiniband_finding,
    look_at_infiniband,
)
from megatron_rl.programs.checks.learner_on_gpu import learner_findings
from megatron_rl.programs.checks.packed_attention import AttentionPackages
from megatron_rl.programs.checks.torch_extensions import (
    TorchExtensions,
    extension_findings,
    import_extensions,
)

_TIMEOUT_S = 60
_DRIVER_CUDA = re.compile(r"CUDA(?: UMD)? Version *: *(\d+\.\d+)")
# Run by the interpreter that is asked about, which may have nothing but the standard library.
_PROBE = r"""
import importlib.metadata, importlib.util, json, pathlib, re
nccl = {}
for found in importlib.metadata.distributions():
    name = (found.metadata["Name"] or "").lower()
    if name.startswith("nvidia-nccl-cu"):
        nccl[name] = found.version
spec = importlib.util.find_spec("torch")
cuda = None
if spec is not None and spec.origin is not None:
    text = pathlib.Path(spec.origin).with_name("version.py").read_text()
    cuda = re.search(r"^cuda\b.*= *'([\d.]+)'", text, re.MULTILINE)
print(json.dumps({"nccl": sorted(nccl.values()), "torch_cuda": cuda and cuda[1]}))
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class CudaPackages:
    """Versions that one Python environment brings along."""

    nccl: tuple[str, ...]
    """Of the packages nvidia-nccl-cu*; none where torch uses a library of the system."""
    torch_cuda: str | None
    """CUDA version that torch is built for; None for a CPU build."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Toolchain:
    """Programs with which SGLang compiles kernels when a server first needs them."""

    cuda_home: Path
    has_nvcc: bool
    has_headers: bool
    ninja: str | None
    cxx: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuMachine:
    """What was found."""

    num_gpus: int
    driver_cuda: str | None
    """Newest CUDA version that the driver runs; None when it does not say."""
    learner: CudaPackages | None
    """None when the interpreter does not answer."""
    serving: CudaPackages | None
    toolchain: Toolchain
    device: Device
    """Least capable GPU, and the learner's Transformer Engine."""
    extensions: TorchExtensions
    flash_attn: str | None
    """Version in the learner's environment."""
    infiniband: InfiniBand


def look_at_machine(
    *,
    num_gpus: int,
    device: Device,
    flash_attn: str | None,
    has_apex: bool,
    learner_python: Path,
    serving_python: Path,
) -> GpuMachine:
    """Ask the driver, both interpreters, the search path and the kernel."""
    return GpuMachine(
        num_gpus=num_gpus,
        driver_cuda=driver_cuda(_output_of(["nvidia-smi"])),
        learner=cuda_packages(learner_python),
        serving=cuda_packages(serving_python),
        toolchain=find_toolchain(os.environ),
        device=device,
        extensions=import_extensions(
            learner_python, has_engine=device.te_version is not None, has_apex=has_apex
        ),
        flash_attn=flash_attn,
        infiniband=look_at_infiniband(),
    )


def gpu_findings(machine: GpuMachine, config: RunConfig | None) -> Iterator[Finding]:
    """Yield what matters to a run on these GPUs.

    Args:
        config: of the run, None where only the machine is of interest.
    """
    yield _driver(machine)
    yield _nccl(machine.learner, machine.serving)
    yield infiniband_finding(machine.infiniband)
    yield from _compilers(machine.toolchain)
    yield from extension_findings(machine.extensions)
    if config is not None:
        yield from _ranks(config, machine.num_gpus)
        yield from learner_findings(config, machine.device, _attention_packages(machine))


def _attention_packages(machine: GpuMachine) -> AttentionPackages | None:
    engine = machine.extensions.engine
    if engine is None or engine.cudnn is None:
        return None
    return AttentionPackages(cudnn=engine.cudnn, flash_attn=machine.flash_attn)


def driver_cuda(listing: str) -> str | None:
    """Return the CUDA version in the head of what nvidia-smi prints."""
    found = _DRIVER_CUDA.search(listing)
    return None if found is None else found[1]


def cuda_packages(python: Path) -> CudaPackages | None:
    """Ask an interpreter for its packages' metadata; no package is imported."""
    answer = _output_of([str(python), "-c", _PROBE])
    if not answer:
        return None
    found = json.loads(answer)
    return CudaPackages(nccl=tuple(found["nccl"]), torch_cuda=found["torch_cuda"])


def find_toolchain(environment: Mapping[str, str]) -> Toolchain:
    """Look where SGLang does (``kernels/jit/utils/compile/toolchain.py``), with a server's path."""
    path = environment["PATH"] if "PATH" in environment else None
    nvcc = shutil.which("nvcc", path=path)
    homes = [environment[name] for name in ("CUDA_HOME", "CUDA_PATH") if name in environment]
    if homes and homes[0]:
        home = Path(homes[0])
    else:
        home = Path("/usr/local/cuda") if nvcc is None else Path(nvcc).parent.parent
    return Toolchain(
        cuda_home=home,
        has_nvcc=os.access(home / "bin/nvcc", os.X_OK),
        has_headers=(home / "include/cuda_runtime.h").exists(),
        ninja=shutil.which("ninja", path=path),
        cxx=shutil.which(environment["CXX"] if "CXX" in environment else "c++", path=path),
    )


def _driver(machine: GpuMachine) -> Finding:
    if machine.driver_cuda is None:
        return Finding(
            name="driver", value="says no CUDA version", remedy="run nvidia-smi by hand and see"
        )
    both = {"learner": machine.learner, "serving": machine.serving}
    newer = [
        f"the {name} environment's torch is built for CUDA {packages.torch_cuda}"
        for name, packages in both.items()
        if packages is not None
        and packages.torch_cuda is not None
        and _major(packages.torch_cuda) > _major(machine.driver_cuda)
    ]
    remedy = "update the driver, or install a torch that is built for an older CUDA"
    value = ", ".join([f"CUDA {machine.driver_cuda}", *newer])
    return Finding(name="driver", value=value, remedy=remedy if newer else "")


def _nccl(learner: CudaPackages | None, serving: CudaPackages | None) -> Finding:
    versions = [packages.nccl if packages is not None else () for packages in (learner, serving)]
    shown = [", ".join(found) if found else "unknown" for found in versions]
    if not all(versions):
        value = f"learner {shown[0]}, serving {shown[1]}: not compared"
        return Finding(name="nccl", value=value)
    if versions[0] == versions[1]:
        return Finding(name="nccl", value=f"{shown[0]} in both environments")
    return Finding(
        name="nccl",
        value=f"learner {shown[0]}, serving {shown[1]}",
        remedy="install one version of torch in both (constraints/gpu-serve.txt), since learner "
        'and servers share an NCCL group; or set weights.transport = "disk"',
    )


def _compilers(tools: Toolchain) -> Iterator[Finding]:
    toolkit = (
        "set CUDA_HOME to a CUDA toolkit, with which SGLang compiles kernels; `make env GPU=1` "
        "leaves one in .venv-serve/cuda"
    )
    yield _tool("nvcc", tools.cuda_home / "bin/nvcc", tools.has_nvcc, toolkit)
    headers = tools.cuda_home / "include/cuda_runtime.h"
    yield _tool("cuda headers", headers, tools.has_headers, toolkit)
    for name, found, remedy in (
        (
            "ninja",
            tools.ninja,
            "put ninja on the PATH: apt-get's ninja-build, or the folder .venv-serve/bin",
        ),
        ("c++", tools.cxx, "install a C++ compiler, or name one in CXX"),
    ):
        yield _tool(name, found, found is not None, remedy)


def _tool(name: str, place: Path | str | None, is_there: bool, remedy: str) -> Finding:
    if is_there:
        return Finding(name=name, value=str(place))
    value = "missing" if place is None else f"missing: {place}"
    return Finding(name=name, value=value, remedy=remedy)


def _ranks(config: RunConfig, num_gpus: int) -> Iterator[Finding]:
    """Name what `train` would refuse; a Slurm job has the GPUs of other nodes as well."""
    wanted = {
        "learner.num_processes": config.learner.num_processes,
        "generators.tp": config.generators.tp,
    }
    for key, ranks in wanted.items():
        is_enough = ranks <= num_gpus
        yield Finding(
            name="gpus for ranks",
            value=f"{key} is {ranks}, this machine has {num_gpus}",
            remedy="" if is_enough else f"lower {key} to run here, or submit the run as a job",
        )


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def _output_of(command: list[str]) -> str:
    """Return what a command prints; nothing when it fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
