"""CUDA headers for Transformer Engine, which compiles some kernels of FP8 at run time."""

import importlib.util
from collections.abc import MutableMapping
from pathlib import Path

_VARIABLES = ("NVTE_CUDA_INCLUDE_DIR", "CUDA_HOME", "CUDA_DIR")
"""Where Transformer Engine looks, before it looks into /usr/local/cuda."""
_TOOLKIT = Path("/usr/local/cuda")
_HEADER = "cuda_runtime.h"


def show_engine_the_headers(
    environment: MutableMapping[str, str], *, toolkit: Path = _TOOLKIT
) -> None:
    """Name the headers of NVIDIA's Python packages where no CUDA toolkit would be found.

    Call it before the first kernel; without any headers FP8 ends the learner on a Hopper.
    """
    stated = [Path(environment[name]) for name in _VARIABLES if name in environment]
    if any(_has_headers(place) for place in (*stated, toolkit)):
        return
    headers = packaged_headers()
    if headers is not None:
        environment[_VARIABLES[0]] = str(headers)


def packaged_headers() -> Path | None:
    """Return the folder of headers that came with torch's CUDA packages, None without any."""
    spec = importlib.util.find_spec("nvidia")
    if spec is None or spec.submodule_search_locations is None:
        return None
    found = (
        header.parent
        for place in spec.submodule_search_locations
        for header in sorted(Path(place).glob(f"cu*/include/{_HEADER}"))
    )
    return next(found, None)


def _has_headers(place: Path) -> bool:
    return (place / _HEADER).exists() or (place / "include" / _HEADER).exists()
