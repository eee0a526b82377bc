"""Utilisation by hand, and the table of GPUs by their drivers' names."""

import pytest

from megatron_rl.parallelism.utilisation import peak_flops, utilisation


def test_half_of_the_peak_by_hand():
    # 4 GPUs of 1e12 FLOP/s could do 8e12 in 2 s; 4e12 were useful.
    assert utilisation(4e12, seconds=2.0, num_gpus=4, peak=1e12) == 0.5


@pytest.mark.parametrize(
    ("gpu", "precision", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA H100 PCIe", "bf16", 756e12),
        ("NVIDIA GH200 480GB", "fp8", 1979e12),
        ("NVIDIA A100-SXM4-80GB", "fp8", None),  # has none
        ("NVIDIA H100 80GB HBM3", "fp32", None),
        ("NVIDIA GeForce RTX 4090", "bf16", None),
    ],
)
def test_peaks_are_found_by_name(gpu, precision, expected):
    assert peak_flops(gpu, precision) == expected
