"""Which attention Transformer Engine picks for packed rows, GPU by GPU; no GPU is needed."""

from dataclasses import replace

import pytest

from megatron_rl.programs.checks.packed_attention import (
    AttentionPackages,
    PackedAttention,
    attention_finding,
    picked_kernel,
)

ROWS = PackedAttention(head_dim=128, cp=1, slides=False, is_deterministic=False)
BARE = AttentionPackages(cudnn=(9, 20, 0), flash_attn=None)
WITH_FLASH = replace(BARE, flash_attn="2.8.3")
AMPERE, ADA, HOPPER, BLACKWELL, DESKTOP = (8, 0), (8, 9), (9, 0), (10, 0), (12, 0)


@pytest.mark.parametrize(
    ("capability", "packages", "kernel"),
    [
        (HOPPER, BARE, "cuDNN"),
        (HOPPER, WITH_FLASH, "cuDNN"),  # preferred where both can
        (BLACKWELL, BARE, "cuDNN"),
        (AMPERE, BARE, "unfused"),  # cuDNN has packed rows from Hopper on
        (AMPERE, WITH_FLASH, "flash-attn"),
        (ADA, WITH_FLASH, "flash-attn"),
        (DESKTOP, BARE, "unfused"),
        (DESKTOP, WITH_FLASH, "flash-attn"),
        ((7, 5), WITH_FLASH, "unfused"),
    ],
)
def test_the_kernel_depends_on_the_gpu_and_on_flash_attn(capability, packages, kernel):
    assert picked_kernel(ROWS, packages, capability) == kernel


@pytest.mark.parametrize(
    ("cudnn", "capability", "kernel"),
    [
        ((9, 5, 1), HOPPER, "unfused"),
        ((9, 6, 0), HOPPER, "cuDNN"),
        ((9, 6, 0), BLACKWELL, "unfused"),
        ((9, 10, 1), HOPPER, "unfused"),
        ((9, 10, 2), HOPPER, "cuDNN"),
    ],
)
def test_the_kernel_depends_on_cudnn(cudnn, capability, kernel):
    assert picked_kernel(ROWS, replace(BARE, cudnn=cudnn), capability) == kernel


def test_wide_heads_are_for_hopper_alone():
    wide = replace(ROWS, head_dim=256)
    assert picked_kernel(wide, BARE, HOPPER) == "cuDNN"
    assert picked_kernel(wide, BARE, BLACKWELL) == "unfused"
    assert picked_kernel(wide, WITH_FLASH, BLACKWELL) == "flash-attn"
    assert picked_kernel(wide, WITH_FLASH, ADA) == "unfused"
    assert picked_kernel(replace(ROWS, head_dim=100), WITH_FLASH, HOPPER) == "unfused"


def test_determinism_costs_blackwell_its_kernel():
    wanted = replace(ROWS, is_deterministic=True)
    assert picked_kernel(wanted, BARE, HOPPER) == "cuDNN"
    assert picked_kernel(wanted, BARE, BLACKWELL) == "unfused"


def test_one_version_of_cudnn_has_no_window():
    packages = replace(BARE, cudnn=(9, 14, 0))
    assert picked_kernel(ROWS, packages, HOPPER) == "cuDNN"
    assert picked_kernel(replace(ROWS, slides=True), packages, HOPPER) == "unfused"


def test_a_row_over_several_ranks_has_no_unfused_kernel():
    rows = replace(ROWS, cp=2)
    assert picked_kernel(rows, BARE, AMPERE) is None
    found = attention_finding(rows, BARE, AMPERE)
    assert found.value == (
        "none for learner.parallel.cp = 2: cuDNN's attention has no packed rows on compute "
        "capability 8.0"
    )
    assert found.remedy == (
        "install flash-attn (>= 2.3, <= 2.8.3) in the learner's environment, or set "
        "learner.parallel.cp = 1"
    )
    assert attention_finding(rows, WITH_FLASH, AMPERE).remedy == ""
    assert attention_finding(rows, BARE, HOPPER).value == "cuDNN 9.20.0"


def test_every_slow_case_has_a_remedy():
    old = replace(BARE, cudnn=(9, 5, 0))
    assert "constraints" not in attention_finding(ROWS, old, HOPPER).remedy  # flash-attn is nearer
    odd = replace(ROWS, head_dim=100)
    for capability in ((7, 5), AMPERE, HOPPER, DESKTOP):
        assert attention_finding(odd, BARE, capability).remedy
