"""GPU that is absent: builds and loads ``absent_gpu.c``, and says what it was asked to do.

Load it before torch is imported. One process has one compute capability, because torch and
Transformer Engine ask once.
"""

import contextlib
import ctypes
import os
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("absent_gpu.c")
CAPABILITY = "MEGATRON_RL_ABSENT_GPU"
"""Variable that asks for the absent GPU, and says its compute capability: 9.0."""
_LIBRARY = "libcuda.so.1"
_CAPABILITIES = {"8.0": "A100", "8.9": "L40", "9.0": "H100", "10.0": "B200", "12.0": "RTX 5090"}
_COUNTS = ("kernels", "products", "fills", "copies_in", "copies_refused")


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What was asked of the GPU; all of it was dropped, and copies to the host were refused."""

    kernels: int
    products: int
    """Matrix products of cuBLAS."""
    fills: int
    copies_in: int
    copies_refused: int


class AbsentGpu:
    """The loaded library."""

    def __init__(self, library: ctypes.CDLL, capability: tuple[int, int]) -> None:
        self._library = library
        self.capability = capability
        library.absent_gpu_count.restype = ctypes.c_long
        library.absent_gpu_refused.restype = ctypes.c_char_p
        library.absent_gpu_capability(*capability)

    @property
    def work(self) -> Work:
        """Everything so far."""
        counts = [self._library.absent_gpu_count(kind) for kind in range(len(_COUNTS))]
        return Work(**dict(zip(_COUNTS, counts, strict=True)))

    @property
    def refused(self) -> str:
        """What was refused last: "a kernel", "a copy to the host", ..."""
        return str(self._library.absent_gpu_refused().decode())

    @contextlib.contextmanager
    def dropping(self) -> Iterator[None]:
        """Drop kernels, products and copies in, which are refused otherwise."""
        self._library.absent_gpu_drop(1)
        try:
            yield
        finally:
            self._library.absent_gpu_drop(0)


def build(folder: Path) -> Path:
    """Compile the library with the headers of the learner's CUDA packages; return it."""
    site = Path(sysconfig.get_path("purelib"))
    library = folder / _LIBRARY
    if library.exists() and library.stat().st_mtime > SOURCE.stat().st_mtime:
        return library
    folder.mkdir(parents=True, exist_ok=True)
    headers = ("-I", site / "nvidia/cu13/include")
    # NVIDIA's packages leave out some headers, which triton brings.
    others = ("-idirafter", site / "triton/backends/nvidia/include")
    command = ("cc", "-shared", "-fPIC", "-O1", f"-Wl,-soname,{_LIBRARY}", *headers, *others)
    subprocess.run([*map(str, command), str(SOURCE), "-o", str(library)], check=True)
    return library


def environment(folder: Path, capability: str) -> dict[str, str]:
    """Return the variables of a process that is to load the library, and of its compilers."""
    assert capability in _CAPABILITIES, capability
    return {
        CAPABILITY: capability,
        "ABSENT_GPU_FOLDER": str(folder),
        "TRITON_LIBCUDA_PATH": str(folder),
        "TRITON_CACHE_DIR": str(folder / f"triton-{capability}"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / f"inductor-{capability}"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }


def load() -> AbsentGpu:
    """Load what ``environment`` names, for torch to find instead of CUDA's own libraries."""
    major, minor = os.environ[CAPABILITY].split(".")
    path = Path(os.environ["ABSENT_GPU_FOLDER"]) / _LIBRARY
    return AbsentGpu(ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL), (int(major), int(minor)))
