"""Model FLOPs utilisation (MFU, arXiv:2204.02311) of a learner."""

from collections.abc import Mapping

_TERA = 1e12

_PEAK_TFLOPS: Mapping[str, Mapping[str, float]] = {
    "A100": {"bf16": 312, "fp16": 312},
    "H100 PCIe": {"bf16": 756, "fp16": 756, "fp8": 1513},
    "H100": {"bf16": 989, "fp16": 989, "fp8": 1979},
    "H200": {"bf16": 989, "fp16": 989, "fp8": 1979},
    "B200": {"bf16": 2250, "fp16": 2250, "fp8": 4500},
    "L40S": {"bf16": 362, "fp16": 362, "fp8": 733},
}
"""Of dense products, by what the driver's name of a GPU contains; the first match counts."""


def peak_flops(gpu: str, precision: str) -> float | None:
    """Return FLOP/s that the maker states for a GPU, None for one that is not in the table.

    Args:
        gpu: name as the driver gives it, such as "NVIDIA H100 80GB HBM3".
        precision: value of ``learner.precision``.
    """
    for name, peaks in _PEAK_TFLOPS.items():
        if name in gpu:
            return peaks[precision] * _TERA if precision in peaks else None
    return None


def utilisation(flops: float, *, seconds: float, num_gpus: int, peak: float) -> float:
    """Return the share of the peak that useful FLOPs were done at.

    Args:
        flops: of all GPUs together, without recomputation; see parallelism.flops.
        peak: FLOP/s of one GPU.
    """
    return flops / (seconds * num_gpus * peak)
