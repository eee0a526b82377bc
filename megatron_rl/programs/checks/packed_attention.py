"""Packed attention: which kernel Transformer Engine picks for a learner's rows, and why.

The rules are those of Transformer Engine 2.9 to 2.11 for what the learner asks of it: rows of
several sequences (THD), causal, trained, without dropout or bias, in half precision. They are in
``pytorch/attention/dot_product_attention/utils.py`` (get_attention_backend) and
``common/fused_attn/fused_attn.cpp`` (nvte_get_fused_attn_backend) of its source.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from megatron_rl.learner.device.precision import Capability, has_engine_attention
from megatron_rl.programs.checks.finding import Finding

_HOPPER, _BLACKWELL, _DESKTOP_BLACKWELL = (9, 0), (10, 0), (12, 0)
_WIDE_HEADS = ((8, 0), _HOPPER, _BLACKWELL, _DESKTOP_BLACKWELL)
"""GPUs on which flash-attn has heads of more than 192."""
_LATENT_HEAD = (192, 128)
"""Dimensions of DeepSeek's keys and values, which have a kernel on every GPU that has any."""
_WITHOUT_ATTENTION = ((9, 10, 0), (9, 10, 1))
"""cuDNN versions whose attention Transformer Engine does not use."""

Kernel = Literal["cuDNN", "flash-attn", "unfused"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionPackages:
    """What is installed in the learner's environment."""

    cudnn: tuple[int, int, int]
    flash_attn: str | None
    """Version of the package flash-attn, None without it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedAttention:
    """What the learner asks for."""

    head_dim: int
    """Of a query or key."""
    value_dim: int
    """Of a value."""
    cp: int
    slides: bool
    """Some layers have a sliding window."""
    is_deterministic: bool
    """NVTE_ALLOW_NONDETERMINISTIC_ALGO is 0."""
    has_sinks: bool = False


def attention_finding(
    wanted: PackedAttention, packages: AttentionPackages, capability: Capability
) -> Finding:
    """Name the kernel, and what to install where it is a slow one or none."""
    against_cudnn = list(_against_cudnn(wanted, packages.cudnn, capability))
    is_engines = has_engine_attention(
        capability,
        head_dim=wanted.head_dim,
        value_dim=wanted.value_dim,
        is_deterministic=wanted.is_deterministic,
        has_sinks=wanted.has_sinks,
    )
    if not is_engines:
        # The learner puts torch's attention among Transformer Engine's other layers.
        return Finding(name="attention", value=f"torch's own: {'; '.join(against_cudnn)}")
    kernel = picked_kernel(wanted, packages, capability)
    shown = {
        "cuDNN": f"cuDNN {'.'.join(map(str, packages.cudnn))}",
        "flash-attn": f"flash-attn {packages.flash_attn}",
        "unfused": "unfused, with memory for the square of the longest sequence",
        None: f"none for learner.parallel.cp = {wanted.cp}",
    }[kernel]
    if kernel in ("cuDNN", "flash-attn"):
        return Finding(name="attention", value=shown)
    value = f"{shown}: {'; '.join(against_cudnn)}"
    return Finding(name="attention", value=value, remedy=_remedy(wanted, capability, kernel))


def picked_kernel(
    wanted: PackedAttention, packages: AttentionPackages, capability: Capability
) -> Kernel | None:
    """Return the kernel for these rows; None when there is none."""
    has_cudnn = not list(_against_cudnn(wanted, packages.cudnn, capability))
    has_flash = packages.flash_attn is not None and _suits_flash_attn(wanted, capability)
    if has_cudnn and (capability >= _HOPPER or not has_flash):
        return "cuDNN"
    if has_flash:
        return "flash-attn"
    return "unfused" if wanted.cp == 1 else None


def _against_cudnn(
    wanted: PackedAttention, cudnn: tuple[int, int, int], capability: Capability
) -> Iterator[str]:
    if wanted.has_sinks:
        yield "Transformer Engine has no packed rows with attention sinks"
    gpu = f"compute capability {capability[0]}.{capability[1]}"
    if capability < _HOPPER or capability == _DESKTOP_BLACKWELL:
        yield f"cuDNN's attention has no packed rows on {gpu}"
    oldest = (9, 7, 0) if capability >= _BLACKWELL else (9, 6, 0)
    if capability >= _BLACKWELL and (wanted.head_dim, wanted.value_dim) == _LATENT_HEAD:
        oldest = (9, 11, 0)
    if cudnn < oldest or cudnn in _WITHOUT_ATTENTION:
        yield (
            f"packed rows on {gpu} need cuDNN >= {'.'.join(map(str, oldest[:2]))} other than "
            f"9.10.0 and 9.10.1, {'.'.join(map(str, cudnn))} is installed"
        )
    if wanted.slides and cudnn == (9, 14, 0):
        yield "cuDNN 9.14.0 has no sliding window in packed rows"
    yield from _against_heads(wanted, capability, gpu)
    if wanted.is_deterministic and capability >= _BLACKWELL:
        yield f"NVTE_ALLOW_NONDETERMINISTIC_ALGO is 0, which rules cuDNN's attention out on {gpu}"


def _against_heads(wanted: PackedAttention, capability: Capability, gpu: str) -> Iterator[str]:
    sizes = (wanted.head_dim, wanted.value_dim)
    if sizes == _LATENT_HEAD:
        return
    widest = 256 if capability == _HOPPER else 128
    if max(sizes) > widest or any(size % 8 for size in sizes):
        yield (
            f"cuDNN's attention has heads of at most {widest} on {gpu}, in steps of 8; the "
            f"model's have {max(sizes)}"
        )
    elif min(sizes) >= _LATENT_HEAD[1] and wanted.head_dim != wanted.value_dim:
        yield (
            f"cuDNN's attention on {gpu} has no keys of {wanted.head_dim} with values of "
            f"{wanted.value_dim}"
        )


def _suits_flash_attn(wanted: PackedAttention, capability: Capability) -> bool:
    if wanted.head_dim != wanted.value_dim:
        return False
    widest = 256 if capability in _WIDE_HEADS else 192
    return capability >= (8, 0) and wanted.head_dim <= widest and wanted.head_dim % 8 == 0


def _remedy(wanted: PackedAttention, capability: Capability, kernel: Kernel | None) -> str:
    ways = []
    if _suits_flash_attn(wanted, capability):
        ways.append("install flash-attn (>= 2.3, <= 2.8.3) in the learner's environment")
    elif capability >= _HOPPER and capability != _DESKTOP_BLACKWELL:
        ways.append("install the cuDNN of constraints/gpu-learn.txt")
    if kernel is None:
        ways.append("set learner.parallel.cp = 1")
    return ", or ".join(ways or ["keep sequences short, or use another GPU"])
