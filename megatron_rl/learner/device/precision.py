"""Precision of a learner: Megatron's fields for it, and what it needs of GPU and layout.

Free of torch and Megatron, so that launchers can refuse before they start anything.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from megatron_rl.config import Fp8Config, Precision
from megatron_rl.errors import ConfigError
from megatron_rl.model_spec import LatentAttention, ModelSpec
from megatron_rl.parallelism.layouts import Layout

Capability = tuple[int, int]
"""Compute capability of a GPU: (9, 0) is Hopper."""

FP8_FIELDS: Mapping[str, str] = {
    "format": "fp8",
    "recipe": "fp8_recipe",
    "margin": "fp8_margin",
    "amax_history_len": "fp8_amax_history_len",
    "amax_compute_algo": "fp8_amax_compute_algo",
    "wgrad": "fp8_wgrad",
    "tp_only_amax_red": "tp_only_amax_red",
    "first_last_layers_bf16": "first_last_layers_bf16",
    "num_layers_at_start_in_bf16": "num_layers_at_start_in_bf16",
    "num_layers_at_end_in_bf16": "num_layers_at_end_in_bf16",
}
"""Key of [learner.fp8] -> field of Megatron's TransformerConfig; all of them."""

_FROM_HOPPER = (9, 0)
_FROM_BLACKWELL = (10, 0)
# Transformer Engine with rotation of packed rows over context-parallel ranks (1.12), products of
# all experts (1.11, with FP8) and permutation of their tokens (2.1).
_FUSED_FROM = (2, 1)
# Of DeepSeek: the only sizes of a key and a value above 128 that differ and have a kernel.
_LATENT_HEAD = (192, 128)
# Tokens and channels that have one scale in the recipe "blockwise".
_BLOCK = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirement:
    """What one way of computing needs."""

    capability: Capability
    below: Capability | None = None
    """First compute capability that no longer has it."""
    te_version: tuple[int, int] | None = None
    """Oldest Transformer Engine; None needs none."""


_BF16 = Requirement(capability=(8, 0))
_RECIPES: Mapping[str, Requirement] = {
    "delayed": Requirement(capability=(8, 9), te_version=(1, 0)),
    "tensorwise": Requirement(capability=(8, 9), te_version=(2, 2)),
    "blockwise": Requirement(capability=_FROM_HOPPER, te_version=(2, 3)),
    # Transformer Engine has no MXFP8 for all products of a layer from 12.0 on.
    "mxfp8": Requirement(capability=_FROM_BLACKWELL, below=(12, 0), te_version=(2, 1)),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """What decides which precisions there are."""

    capability: Capability | None
    """None is a CPU."""
    te_version: str | None
    """Of the installed Transformer Engine."""


def megatron_fields(precision: Precision, fp8: Fp8Config) -> dict[str, Any]:
    """Return the TransformerConfig fields of FP8; none of another precision."""
    if precision != "fp8":
        return {}
    return {field: getattr(fp8, key) for key, field in FP8_FIELDS.items()}


def check_precision(precision: Precision, fp8: Fp8Config, device: Device) -> None:
    """Raise ConfigError, with a remedy, for what this device cannot compute in."""
    if precision == "fp8":
        _check_fp8(fp8.recipe, device)
    if precision == "bf16" and device.capability is not None:
        needed = _BF16.capability
        if device.capability < needed:
            raise ConfigError(
                f'learner.precision ("bf16") needs compute capability >= {_dotted(needed)}, this '
                f'GPU has {_dotted(device.capability)}; set learner.precision = "fp16"'
            )


def offered_recipes(device: Device) -> list[str]:
    """Return the FP8 recipes that the device can do, Transformer Engine included."""
    return [recipe for recipe in _RECIPES if not list(_missing(recipe, device))]


def fused_fields(te_version: str, *, is_mixture: bool, has_latents: bool) -> dict[str, Any]:
    """Return Megatron's fields for kernels of Transformer Engine that do at once what takes many.

    Rotation of packed rows otherwise fetches their lengths from the GPU in every layer, and experts
    are otherwise multiplied one after the other, with as many waits. Latent attention has no such
    kernel for the rotation of its parts of heads.
    """
    if _version(te_version) < _FUSED_FROM:
        return {}
    fields = {} if has_latents else {"apply_rope_fusion": True}
    if is_mixture:
        fields |= {"moe_grouped_gemm": True, "moe_permute_fusion": True}
    return fields


def has_engine_attention(
    capability: Capability,
    *,
    head_dim: int,
    value_dim: int,
    is_deterministic: bool = False,
    has_sinks: bool = False,
) -> bool:
    """Return whether Transformer Engine has a kernel, cuDNN's, for attention of packed rows.

    Without one it falls back on masks of the square of the longest sequence, which it makes from
    lengths that it reads on the host, and has nothing at all over several ranks.

    Args:
        head_dim: of a query or key.
        value_dim: of a value.
        is_deterministic: ``NVTE_ALLOW_NONDETERMINISTIC_ALGO`` is 0.
        has_sinks: heads have sinks, which no kernel of packed rows has.
    """
    sizes = (head_dim, value_dim)
    if has_sinks or head_dim % 8 or value_dim % 8:
        return False
    if _FROM_HOPPER <= capability < _FROM_BLACKWELL:
        is_wide = head_dim != value_dim and min(sizes) >= 128
        return sizes == _LATENT_HEAD or (max(sizes) <= 256 and not is_wide)
    if not _FROM_BLACKWELL <= capability < (12, 0) or is_deterministic:
        return False
    return sizes == _LATENT_HEAD or max(sizes) <= 128


def check_attention(precision: Precision, layout: Layout, device: Device, model: ModelSpec) -> None:
    """Raise ConfigError for a sliding window that the device's attention cannot spread over ranks.

    Transformer Engine passes keys and values round context-parallel ranks, without windows; the
    layers that float32, CPUs and other GPUs use gather them.
    """
    if device.capability is None or device.te_version is None or precision == "fp32":
        return
    is_engines = has_engine_attention(
        device.capability,
        head_dim=model.head_dim,
        value_dim=model.value_dim,
        has_sinks=model.has_sinks,
    )
    if model.window is not None and layout.cp > 1 and is_engines:
        raise ConfigError(
            f"learner.parallel.cp ({layout.cp}) must be 1 for a model with a sliding window: "
            "Transformer Engine's attention has none over several ranks; raise learner.parallel.tp "
            "or pp, or recompute activations"
        )


def check_expert_biases(precision: Precision, device: Device, model: ModelSpec) -> None:
    """Raise ConfigError where experts with biases would be Transformer Engine's one by one.

    Megatron adds their biases in place then, to what a function with a backward pass of its own
    has returned; all experts as one product have theirs added otherwise.
    """
    version = device.te_version
    if device.capability is None or version is None or precision == "fp32":
        return
    if model.has_linear_biases and _version(version) < _FUSED_FROM:
        raise ConfigError(
            f"a model whose experts have biases needs Transformer Engine >= "
            f"{_dotted(_FUSED_FROM)}, {version} is installed; upgrade it in the learner's "
            "environment"
        )


def token_multiple(precision: Precision, recipe: str, *, is_gathered: bool) -> int:
    """Return what the tokens of a matrix product must be a multiple of, on every rank.

    Args:
        is_gathered: sequence parallelism: Transformer Engine gathers what every rank has quantised
            by itself, so each part is of whole blocks (``assert_dim_for_all_gather``).
    """
    if precision != "fp8":
        return 1
    if recipe == "blockwise" and is_gathered:
        return _BLOCK
    return 32 if recipe == "mxfp8" else 16


def row_multiple(layout: Layout, *, tokens: int) -> int:
    """Return what a row must be padded to a multiple of.

    Context parallelism cuts every row into two chunks for each of its ranks, sequence parallelism
    what each of those holds once more; every part is to be a multiple of ``tokens``.
    """
    chunks = 2 if layout.cp > 1 and tokens == 1 else 1
    return layout.cp * chunks * tokens * (layout.tp if layout.sp else 1)


def check_fp8_sizes(model: ModelSpec, layout: Layout, *, recipe: str) -> None:
    """Raise ConfigError naming every matrix that FP8 cannot multiply as this layout cuts it."""
    unit = token_multiple("fp8", recipe, is_gathered=False)
    if model.hidden_size % token_multiple("fp8", recipe, is_gathered=layout.sp):
        raise ConfigError(
            f'learner.fp8.recipe ("{recipe}") with learner.parallel.sp needs a hidden_size that is '
            f"a multiple of {_BLOCK}, this model's is {model.hidden_size}; set learner.parallel.sp "
            "= false, or take another recipe"
        )
    if model.latent is None:
        sizes = _attention_sizes(model, layout)
    else:
        sizes = _latent_sizes(model, layout, model.latent)
        _check_gathered_latents(model.latent, layout, recipe=recipe)
    if not all(model.mixtures):
        sizes["intermediate_size / tp"] = model.ffn_size // layout.tp
    if any(model.mixtures):
        sizes["moe_intermediate_size / etp"] = model.expert_ffn_size // layout.etp
    broken = [f"{name} ({size})" for name, size in sizes.items() if size % unit]
    if broken:
        raise ConfigError(
            f'learner.fp8.recipe ("{recipe}") needs sizes that are multiples of {unit}; of this '
            f"model and layout these are not: {', '.join(broken)}; lower learner.parallel.tp, or "
            'set learner.precision = "bf16"'
        )


def _attention_sizes(model: ModelSpec, layout: Layout) -> dict[str, int]:
    heads = model.num_heads * model.head_dim
    return {
        "hidden_size": model.hidden_size,
        "num_attention_heads * head_dim / tp": heads // layout.tp,
        "(query + key + value heads) * head_dim / tp": (
            (heads + 2 * model.num_groups * model.head_dim) // layout.tp
        ),
    }


def _latent_sizes(model: ModelSpec, layout: Layout, latent: LatentAttention) -> dict[str, int]:
    heads = model.num_heads // layout.tp
    plain = model.head_dim - model.rotary_dim
    sizes = {
        "hidden_size": model.hidden_size,
        "num_attention_heads * (qk_nope_head_dim + qk_rope_head_dim) / tp": heads * model.head_dim,
        "num_attention_heads * (qk_nope_head_dim + v_head_dim) / tp": (
            heads * (plain + latent.value_dim)
        ),
        "num_attention_heads * v_head_dim / tp": heads * latent.value_dim,
        "kv_lora_rank": latent.kv_rank,
        "kv_lora_rank + qk_rope_head_dim": latent.kv_rank + model.rotary_dim,
    }
    return sizes if latent.query_rank is None else sizes | {"q_lora_rank": latent.query_rank}


def _check_gathered_latents(latent: LatentAttention, layout: Layout, *, recipe: str) -> None:
    """Raise ConfigError for a latent that is gathered as parts of a block."""
    unit = token_multiple("fp8", recipe, is_gathered=layout.sp)
    ranks = {"q_lora_rank": latent.query_rank, "kv_lora_rank": latent.kv_rank}
    broken = [f"{name} ({rank})" for name, rank in ranks.items() if rank and rank % unit]
    if broken and unit == _BLOCK:
        raise ConfigError(
            f'learner.fp8.recipe ("{recipe}") with learner.parallel.sp needs latents that are '
            f"multiples of {_BLOCK}, not {' and '.join(broken)}; take another recipe, or set "
            "learner.parallel.tp = 1 and sp = false"
        )


def _check_fp8(recipe: str, device: Device) -> None:
    missing = list(_missing(recipe, device))
    if not missing:
        return
    offered = offered_recipes(device)
    remedy = 'set learner.precision = "bf16"'
    if offered:
        remedy = f"set learner.fp8.recipe to {' or '.join(offered)}, or {remedy[4:]}"
    elif device.capability is not None and device.te_version is None:
        remedy = f"pip install --no-build-isolation 'megatron-rl[gpu]', or {remedy}"
    raise ConfigError(
        f'learner.precision ("fp8") with learner.fp8.recipe ("{recipe}") needs '
        f"{'; and '.join(missing)}; {remedy}"
    )


def _missing(recipe: str, device: Device) -> Iterator[str]:
    needed = _RECIPES[recipe]
    if device.capability is None:
        yield "an NVIDIA GPU, and there is none here"
    elif device.capability < needed.capability:
        yield (
            f"compute capability >= {_dotted(needed.capability)}, this GPU has "
            f"{_dotted(device.capability)}"
        )
    elif needed.below is not None and device.capability >= needed.below:
        yield (
            f"compute capability < {_dotted(needed.below)}, this GPU has "
            f"{_dotted(device.capability)}"
        )
    if needed.te_version is None:
        return
    if device.te_version is None:
        yield "Transformer Engine, which is not installed"
    elif _version(device.te_version) < needed.te_version:
        yield (
            f"Transformer Engine >= {_dotted(needed.te_version)}, {device.te_version} is installed"
        )


def _version(text: str) -> tuple[int, int]:
    major, minor, *_ = text.split(".")
    return int(major), int(minor)


def _dotted(pair: tuple[int, int]) -> str:
    return f"{pair[0]}.{pair[1]}"
