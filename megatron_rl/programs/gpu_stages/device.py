"""Device and driver: memory that is free, a product that is right, and their speed."""

import os
import time
from collections.abc import Callable, Iterator

import torch

from megatron_rl.placement.gpu_environment import LEARNER_DEFAULTS
from megatron_rl.programs.gpu_stages.sizes import sizes_of
from megatron_rl.programs.stage_runs.result import Figure, Limit, Outcome
from megatron_rl.programs.stage_runs.stage import Place

_GIB = 2**30
_CHECKED_ROWS = 64
_REPEATS = 5
_PRODUCT = Limit(
    at_most=0.01,
    reason="sums are made in float32, and the result is rounded to bf16, which keeps 8 bits: 0.4 %",
)
_IN_USE = Limit(
    at_most=2.0,
    reason="a CUDA context takes half a GiB; more than that is another program, which would spoil "
    "every figure of memory and speed",
)


def check(place: Place) -> Outcome:
    """Look at every GPU, and compute on the first."""
    if not place.is_rehearsal and not torch.cuda.is_available():
        return Outcome(
            figures=[
                Figure(
                    name="GPUs that torch sees",
                    value=0,
                    limit=Limit(at_least=1, reason="the driver names one, see megatron-rl doctor"),
                )
            ],
            notes=[f"torch {torch.__version__} is built for CUDA {torch.version.cuda}"],
        )
    device = device_of(place)
    return Outcome(
        figures=[*_memory(place), *_product(place, device), *_copies(place, device)],
        notes=list(_notes(place)),
    )


def device_of(place: Place) -> torch.device:
    """Return where the one rank of a stage computes."""
    return torch.device("cpu") if place.is_rehearsal else torch.device("cuda", 0)


def _notes(place: Place) -> Iterator[str]:
    if place.is_rehearsal:
        yield "CPU twin: the host's memory and matrix product"
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield (
            f"GPU {index}: {properties.name}, capability {properties.major}.{properties.minor}, "
            f"{properties.total_memory / _GIB:.1f} GiB, "
            f"{properties.multi_processor_count} multiprocessors"
        )
    for other in range(1, torch.cuda.device_count()):
        has = "has" if torch.cuda.can_device_access_peer(0, other) else "has no"
        yield f"GPU 0 {has} peer access to GPU {other}"
    yield "NCCL starts with " + ", ".join(f"{k}={v}" for k, v in LEARNER_DEFAULTS.items())


def _memory(place: Place) -> Iterator[Figure]:
    if place.is_rehearsal:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        yield Figure(name="free memory of the host", value=free / _GIB, unit="GiB")
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        yield Figure(name=f"free memory of GPU {index}", value=free / _GIB, unit="GiB")
        yield Figure(
            name=f"memory of GPU {index} in use",
            value=(total - free) / _GIB,
            unit="GiB",
            limit=_IN_USE,
        )


def _product(place: Place, device: torch.device) -> Iterator[Figure]:
    size = sizes_of(place).matrix
    torch.manual_seed(0)
    left, right = (torch.randn(size, size).to(device, torch.bfloat16) for _ in range(2))
    rows = (left @ right)[:_CHECKED_ROWS].double().cpu()
    expected = left[:_CHECKED_ROWS].double().cpu() @ right.double().cpu()
    error = float((rows - expected).norm() / expected.norm())
    yield Figure(name="bf16 product, relative error", value=error, limit=_PRODUCT)
    seconds = _seconds(lambda: left @ right, device)
    yield Figure(name="bf16 product", value=2 * size**3 / seconds / 1e12, unit="TFLOP/s")


def _copies(place: Place, device: torch.device) -> Iterator[Figure]:
    values = torch.zeros(sizes_of(place).num_bytes // 4, device=device)
    copy, host = torch.empty_like(values), values.cpu()
    seconds = _seconds(lambda: copy.copy_(values), device)
    # Each byte is read and written.
    yield Figure(name="copy on the device", value=2 * values.nbytes / seconds / 1e9, unit="GB/s")
    seconds = _seconds(lambda: copy.copy_(host), device)
    yield Figure(name="copy from the host", value=values.nbytes / seconds / 1e9, unit="GB/s")


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call, after a first that is left out."""
    call()
    _wait(device)
    started = time.perf_counter()
    for _ in range(_REPEATS):
        call()
    _wait(device)
    return (time.perf_counter() - started) / _REPEATS


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
