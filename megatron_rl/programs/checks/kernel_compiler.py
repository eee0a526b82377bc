"""C compiler of a learner on a GPU, as ``doctor`` sees it: Triton builds launchers of kernels."""

import os
import shutil
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from megatron_rl.programs.checks.finding import Finding


def find_kernel_compiler(environment: Mapping[str, str], *, headers: Path) -> Finding:
    """Look where Triton does (``triton/runtime/build.py``), for the first step of training.

    Megatron's activations are compiled by torch, and experts' tokens are permuted, with Triton.

    Args:
        environment: of the learner.
        headers: folder of this interpreter's headers, see :func:`python_headers`.
    """
    path = environment["PATH"] if "PATH" in environment else os.defpath
    wanted = [environment["CC"]] if "CC" in environment else ["gcc", "clang"]
    found = next((place for name in wanted if (place := shutil.which(name, path=path))), None)
    missing = []
    if found is None:
        missing.append(f"no C compiler ({' or '.join(wanted)})")
    if not (headers / "Python.h").exists():
        missing.append(f"no {headers / 'Python.h'}")
    return Finding(
        name="c compiler",
        value=", ".join(missing) if missing else f"{found}, {headers / 'Python.h'}",
        remedy="install gcc, or name a compiler in CC, and Python's headers (python3-dev): Triton "
        "builds kernels with them at the learner's first step"
        if missing
        else "",
    )


def python_headers() -> Path:
    """Return where this interpreter's headers belong."""
    return Path(sysconfig.get_paths()["include"])
