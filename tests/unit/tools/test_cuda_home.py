"""CUDA_HOME made of packages: links where compilers and linkers look, and a stub of the driver."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "tools/link_cuda_home.sh"


def linked(python: Path, target: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, python, target], capture_output=True, text=True)


@pytest.fixture
def python(tmp_path) -> Path:
    """Return an interpreter that names a folder of packages, with what the script looks for."""
    toolkit = tmp_path / "site/nvidia/cu13"
    for folder in ("bin", "include", "lib", "nvvm"):
        (toolkit / folder).mkdir(parents=True)
    (toolkit / "bin/nvcc").touch(mode=0o755)
    (toolkit / "lib/libcudart.so.13").touch()
    (toolkit / "lib/libcudadevrt.a").touch()
    header = "CUresult CUDAAPI cuInit(unsigned int Flags);\n#define cuMemAlloc cuMemAlloc_v2\n"
    (toolkit / "include/cuda.h").write_text(header)
    stand_in = tmp_path / "python"
    stand_in.write_text(f"#!/bin/sh\necho {tmp_path}/site\n")
    stand_in.chmod(0o755)
    return stand_in


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_what_a_compiler_and_a_linker_look_for_is_there(python, tmp_path):
    target = tmp_path / "cuda"
    for _ in range(2):  # the second time over the first
        done = linked(python, target)
        assert done.returncode == 0, done.stderr
    assert (target / "bin/nvcc").exists() and (target / "include/cuda.h").exists()
    libraries = {path.name for path in (target / "lib64").iterdir()}
    assert libraries == {"libcudart.so", "libcudart.so.13", "libcudadevrt.a", "stubs"}
    assert (target / "lib64/libcudart.so").resolve().name == "libcudart.so.13"
    stub = (target / "lib64/stubs/libcuda.so").read_bytes()
    for name in (b"libcuda.so.1", b"cuInit", b"cuMemAlloc", b"cuMemAlloc_v2"):
        assert name in stub


def test_an_environment_without_nvcc_is_refused(tmp_path):
    done = linked(Path(sys.executable), tmp_path / "cuda")
    assert done.returncode == 2
    assert "has no nvcc" in done.stderr and "constraints/gpu-serve.txt" in done.stderr
    assert not (tmp_path / "cuda").exists()
