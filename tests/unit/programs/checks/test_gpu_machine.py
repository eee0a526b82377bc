"""What doctor says of a machine with GPUs, from what was found there; no GPU is needed."""

import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_rl import cli
from megatron_rl.config import resolve
from megatron_rl.learner.device.precision import Device
from megatron_rl.programs.checks.gpu_machine import (
    CudaPackages,
    GpuMachine,
    Toolchain,
    cuda_packages,
    driver_cuda,
    find_toolchain,
    gpu_findings,
)
from megatron_rl.programs.checks.infiniband import InfiniBand
from megatron_rl.programs.checks.torch_extensions import Import, TorchExtensions

PACKAGES = CudaPackages(nccl=("2.29.7",), torch_cuda="13.0")
TOOLS = Toolchain(
    cuda_home=Path("/cuda"), has_nvcc=True, has_headers=True, ninja="/bin/ninja", cxx="/bin/c++"
)
NETWORK = InfiniBand(
    devices=("mlx5_0",),
    active=("mlx5_0",),
    has_verbs=True,
    has_peermem=True,
    has_open_driver=False,
    can_lock_memory=True,
)
WELL = GpuMachine(
    num_gpus=2,
    driver_cuda="13.0",
    learner=PACKAGES,
    serving=PACKAGES,
    toolchain=TOOLS,
    device=Device(capability=(9, 0), te_version="2.11.0"),
    extensions=TorchExtensions(engine=Import(error=None, cudnn=(9, 20, 0)), apex=None),
    flash_attn=None,
    infiniband=NETWORK,
)


MODEL = Path(__file__).parents[3] / "released/Mistral-Small-24B"  # its config.json alone


def config_of(*, ranks: int, tp: int, **learner):
    return resolve(
        {
            "run_dir": "run",
            "num_steps": 1,
            "model": {"path": str(MODEL)},
            "data": {"train": "train.jsonl"},
            "learner": {"num_processes": ranks, **learner},
            "generators": {"tp": tp},
        }
    )


def remedies(machine: GpuMachine, config=None) -> dict[str, str]:
    """Return, by finding, the remedies that there are."""
    return {f.name: f.remedy for f in gpu_findings(machine, config) if f.remedy}


def test_a_machine_that_has_everything_needs_nothing():
    assert remedies(WELL, config_of(ranks=2, tp=1)) == {}
    assert remedies(replace(WELL, driver_cuda="12.9"))  # 13.0 is newer than 12.9
    assert remedies(replace(WELL, driver_cuda="13.2")) == {}
    old = replace(PACKAGES, torch_cuda="12.8")
    assert remedies(replace(WELL, driver_cuda="13.0", serving=old, learner=old)) == {}


@pytest.mark.parametrize(
    ("tools", "name", "remedy"),
    [
        ({"has_nvcc": False}, "nvcc", "CUDA_HOME"),
        ({"has_headers": False}, "cuda headers", "CUDA_HOME"),
        ({"ninja": None}, "ninja", "put ninja on the PATH"),
        ({"cxx": None}, "c++", "C++ compiler"),
    ],
)
def test_every_tool_that_is_missing_is_named_with_its_remedy(tools, name, remedy):
    found = remedies(replace(WELL, toolchain=replace(TOOLS, **tools)))
    assert list(found) == [name]
    assert remedy in found[name]


def test_two_versions_of_nccl_are_named():
    other = replace(PACKAGES, nccl=("2.30.7",))
    machine = replace(WELL, serving=other)
    assert "constraints/gpu-serve.txt" in remedies(machine)["nccl"]
    (nccl,) = [f for f in gpu_findings(machine, None) if f.name == "nccl"]
    assert nccl.value == "learner 2.29.7, serving 2.30.7"


@pytest.mark.parametrize("unknown", [None, CudaPackages(nccl=(), torch_cuda=None)])
def test_an_nccl_that_is_no_package_is_not_compared(unknown):
    machine = replace(WELL, serving=unknown)
    assert remedies(machine) == {}
    (nccl,) = [f for f in gpu_findings(machine, None) if f.name == "nccl"]
    assert nccl.value == "learner 2.29.7, serving unknown: not compared"


def test_a_driver_that_is_older_than_torch_is_named_with_the_environment():
    machine = replace(WELL, driver_cuda="12.9", learner=replace(PACKAGES, torch_cuda="12.8"))
    (driver,) = [f for f in gpu_findings(machine, None) if f.name == "driver"]
    assert driver.value == "CUDA 12.9, the serving environment's torch is built for CUDA 13.0"
    assert driver.remedy.startswith("update the driver")


def test_more_ranks_than_gpus_are_named():
    found = list(gpu_findings(WELL, config_of(ranks=4, tp=2)))
    learner, servers = (f for f in found if f.name == "gpus for ranks")
    assert learner.value == "learner.num_processes is 4, this machine has 2"
    assert learner.remedy.startswith("lower learner.num_processes")
    assert servers.remedy == ""


@pytest.mark.parametrize(
    ("listing", "version"),
    [
        ("| NVIDIA-SMI 580.1  Driver Version: 580.1  CUDA Version: 13.0  |", "13.0"),
        ("CUDA UMD Version : 13.1\n", "13.1"),
        ("| NVIDIA-SMI 580.1  Driver Version: 580.1  CUDA Version: N/A |", None),
        ("", None),
    ],
)
def test_the_driver_says_which_cuda_it_runs(listing, version):
    assert driver_cuda(listing) == version


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_tools_are_looked_for_where_sglang_does(tmp_path):
    tools = tmp_path / "bin"
    for name in ("nvcc", "ninja", "g++"):
        executable(tools / name)
    # A wrapper of nvcc on the path, beside which there are no headers.
    found = find_toolchain({"PATH": str(tools), "CXX": "g++"})
    assert (found.cuda_home, found.has_nvcc, found.has_headers) == (tmp_path, True, False)
    assert (found.ninja, found.cxx) == (str(tools / "ninja"), str(tools / "g++"))
    toolkit = tmp_path / "toolkit"
    executable(toolkit / "bin/nvcc")
    (toolkit / "include").mkdir()
    (toolkit / "include/cuda_runtime.h").touch()
    found = find_toolchain({"PATH": str(tools), "CUDA_HOME": str(toolkit)})
    assert (found.cuda_home, found.has_nvcc, found.has_headers) == (toolkit, True, True)
    assert found.cxx is None


def test_an_interpreter_is_asked_without_importing_torch(tmp_path, monkeypatch):
    (tmp_path / "nvidia_nccl_cu13-2.29.7.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: nvidia-nccl-cu13\nVersion: 2.29.7\n"
    (tmp_path / "nvidia_nccl_cu13-2.29.7.dist-info/METADATA").write_text(metadata)
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise ImportError('imported')\n")
    (tmp_path / "torch/version.py").write_text("cuda: Optional[str] = '13.0'\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert cuda_packages(Path(sys.executable)) == PACKAGES
    (tmp_path / "torch/version.py").write_text("cuda: Optional[str] = None\n")
    assert cuda_packages(Path(sys.executable)).torch_cuda is None
    assert cuda_packages(tmp_path / "absent") is None


NVIDIA_SMI = """#!/bin/sh
case $1 in
    --query-gpu=compute_cap) echo 9.0 ;;
    --query-gpu=*) echo "a GPU, 80 GiB, 9.0" ;;
    -L) echo "GPU 0: a GPU" ;;
    *) echo "CUDA Version: 13.0" ;;
esac
"""


@pytest.mark.lengthy  # asks torch and both interpreters
def test_doctor_reports_a_machine_whose_driver_lists_gpus(tmp_path, monkeypatch, capsys):
    smi = executable(tmp_path / "nvidia-smi")
    smi.write_text(NVIDIA_SMI)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "no toolkit"))
    cli.main(["doctor"])
    out = capsys.readouterr().out
    assert f"missing: {tmp_path / 'no toolkit'}/bin/nvcc" in out
    assert "-> set CUDA_HOME to a CUDA toolkit" in out
    assert "driver              CUDA 13.0" in out
    assert "block FP8 servers   " in out


def of_run(machine: GpuMachine, **learner):
    """Return the findings about the run's learner, by name."""
    found = gpu_findings(machine, config_of(ranks=1, tp=1, **learner))
    return {f.name: f for f in found if f.name in ("run's precision", "attention")}


def test_a_precision_that_the_gpu_lacks_is_named_with_those_that_it_has():
    well = of_run(WELL, precision="fp8", fp8={"recipe": "delayed"})["run's precision"]
    assert (well.value, well.remedy) == ("fp8, delayed", "")
    bad = of_run(WELL, precision="fp8", fp8={"recipe": "mxfp8"})["run's precision"]
    assert "needs compute capability >= 10.0, this GPU has 9.0" in bad.value
    assert bad.remedy.startswith("set learner.fp8.recipe to delayed or tensorwise or blockwise")
    old = replace(WELL, device=Device(capability=(7, 5), te_version=None))
    assert of_run(old)["run's precision"].remedy == 'set learner.precision = "fp16"'


def test_attention_is_judged_for_the_engine_that_imports():
    assert of_run(WELL)["attention"].value == "cuDNN 9.20.0"
    assert of_run(WELL, precision="fp32")["attention"].value == "torch's own"
    broken = TorchExtensions(engine=Import(error="ImportError: undefined symbol: x"), apex=None)
    machine = replace(WELL, extensions=broken)
    assert "attention" not in of_run(machine)
    assert "make env GPU=1" in remedies(machine)["te build"]
    none = replace(WELL, device=Device(capability=(9, 0), te_version=None))
    assert of_run(none)["attention"].value == "torch's own"


def test_a_model_that_is_not_there_is_not_judged(tmp_path):
    config = config_of(ranks=1, tp=1)
    model = config.model.model_copy(update={"path": tmp_path / "absent"})
    found = {f.name: f for f in gpu_findings(WELL, config.model_copy(update={"model": model}))}
    assert found["run's precision"].value.startswith("not judged: ")
    assert "attention" not in found
