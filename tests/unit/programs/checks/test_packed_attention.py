"""Which attention Transformer Engine picks for packed rows, GPU by GPU; no GPU is needed."""

from dataclasses import replace

import pytest

from megatron_rl.programs.checks.packed_attention import (
    AttentionPackages,
    PackedAttention,
    attention_finding,
    picked_kernel,
)

ROWS = PackedAttention(head_dim=128, value_dim=128, cp=1, slides=False, is_deterministic=False)
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
    wide = replace(ROWS, head_dim=256, value_dim=256)
    assert picked_kernel(wide, BARE, HOPPER) == "cuDNN"
    assert picked_kernel(wide, BARE, BLACKWELL) == "unfused"
    assert picked_kernel(wide, WITH_FLASH, BLACKWELL) == "flash-attn"
    assert picked_kernel(wide, WITH_FLASH, ADA) == "unfused"
    assert (
        picked_kernel(replace(ROWS, head_dim=100, value_dim=100), WITH_FLASH, HOPPER) == "unfused"
    )


def test_values_narrower_than_keys_are_for_cudnn_in_deepseeks_sizes():
    latent = replace(ROWS, head_dim=192, value_dim=128)
    assert picked_kernel(latent, BARE, HOPPER) == picked_kernel(latent, BARE, BLACKWELL) == "cuDNN"
    older = replace(BARE, cudnn=(9, 10, 2))
    assert picked_kernel(latent, older, HOPPER) == "cuDNN"
    assert picked_kernel(latent, older, BLACKWELL) == "unfused"
    assert picked_kernel(latent, WITH_FLASH, AMPERE) == "unfused"  # flash-attn 2 has one size
    other = attention_finding(replace(latent, head_dim=256), BARE, HOPPER)
    assert other.value.endswith("has no keys of 256 with values of 128")


def test_sinks_are_for_torchs_attention():
    found = attention_finding(replace(ROWS, has_sinks=True), BARE, HOPPER)
    assert found.value == (
        "torch's own: Transformer Engine has no packed rows with attention sinks"
    )
    assert not found.remedy


def test_determinism_costs_blackwell_its_kernel():
    wanted = replace(ROWS, is_deterministic=True)
    assert picked_kernel(wanted, BARE, HOPPER) == "cuDNN"
    assert picked_kernel(wanted, BARE, BLACKWELL) == "unfused"


def test_one_version_of_cudnn_has_no_window():
    packages = replace(BARE, cudnn=(9, 14, 0))
    assert picked_kernel(ROWS, packages, HOPPER) == "cuDNN"
    assert picked_kernel(replace(ROWS, slides=True), packages, HOPPER) == "unfused"


def test_a_row_over_several_ranks_has_no_unfused_kernel():
    rows, old = replace(ROWS, cp=2), replace(BARE, cudnn=(9, 5, 0))
    assert picked_kernel(rows, old, HOPPER) is None
    found = attention_finding(rows, old, HOPPER)
    assert found.value.startswith("none for learner.parallel.cp = 2: packed rows on compute")
    assert found.remedy == (
        "install flash-attn (>= 2.3, <= 2.8.3) in the learner's environment, or set "
        "learner.parallel.cp = 1"
    )
    assert attention_finding(rows, replace(old, flash_attn="2.8.3"), HOPPER).remedy == ""
    assert attention_finding(rows, BARE, HOPPER).value == "cuDNN 9.20.0"


@pytest.mark.parametrize("capability", [(7, 5), AMPERE, DESKTOP])
def test_the_learner_takes_torchs_attention_where_the_engine_has_none(capability):
    found = attention_finding(replace(ROWS, cp=2), BARE, capability)
    assert found.value.startswith("torch's own: cuDNN's attention has no packed rows on compute")
    assert found.remedy == ""
    odd = attention_finding(replace(ROWS, head_dim=100, value_dim=100), BARE, HOPPER)
    assert odd.value.startswith("torch's own: cuDNN's attention has heads of at most 256")
