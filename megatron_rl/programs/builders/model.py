"""Model of a configuration: its folder, layout and precision, checked against each other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_rl.config import ParallelConfig, RunConfig, resolve_precision
from megatron_rl.conversion.families import (
    read_model_spec,
    read_scaled_fields,
    read_served_fields,
)
from megatron_rl.conversion.families.shapes import check_tensors
from megatron_rl.errors import ConfigError, ModelError
from megatron_rl.hf_folder import WeightReader, check_no_checkpoint, check_weight_format
from megatron_rl.learner.device.precision import (
    Device,
    check_attention,
    check_expert_biases,
    check_fp8_sizes,
    check_precision,
)
from megatron_rl.model_spec import ModelSpec
from megatron_rl.parallelism.layouts import Layout, check_layout
from megatron_rl.run_dir import RunDir


def layout_of(parallel: ParallelConfig) -> Layout:
    """Return the layout; an expert is cut like everything else unless etp says otherwise."""
    return Layout(
        tp=parallel.tp,
        sp=parallel.sp,
        pp=parallel.pp,
        vpp=parallel.vpp,
        cp=parallel.cp,
        ep=parallel.ep,
        etp=parallel.tp if parallel.etp is None else parallel.etp,
    )


def check_layout_of(parallel: ParallelConfig, spec: ModelSpec) -> None:
    """Raise ConfigError for whatever of the layout this model does not allow."""
    check_layout(layout_of(parallel), spec)


def trained_spec(config: RunConfig) -> ModelSpec:
    """Return the model that a run trains: what its folder says, scaled as the run says.

    Raises:
        ConfigError: the model cannot be scaled so.
        ModelError: the folder is not understood.
    """
    return read_model_spec(config.model.path, config.model.rope_scaling)


def exported_fields(config: RunConfig) -> dict[str, Any]:
    """Return the fields of config.json in which folders of a run's weights differ from the model's.

    Raises:
        ConfigError: the model cannot be scaled as the run says.
        ModelError: the folder is not understood.
    """
    scaling = config.model.rope_scaling
    return {} if scaling is None else read_scaled_fields(config.model.path, scaling)


def served_fields(config: RunConfig) -> dict[str, Any]:
    """Return the fields of config.json that servers take from the run instead of from the folder.

    Raises:
        ConfigError: the model cannot be scaled as the run says.
        ModelError: the folder is not understood.
    """
    scaling = config.model.rope_scaling
    return {} if scaling is None else read_served_fields(config.model.path, scaling)


def checked_spec(config: RunConfig) -> ModelSpec:
    """Return what the model's folder says, once layout and context length are known to suit it.

    Raises:
        ConfigError: they do not.
        ModelError: the folder is not understood, or has weights of another format only.
    """
    check_no_checkpoint(config.model.path)
    if config.model.init == "pretrained":
        check_weight_format(config.model.path)
    spec = trained_spec(config)
    check_layout_of(config.learner.parallel, spec)
    context = config.generators.context_length
    if context is not None and context > spec.max_positions:
        raise ConfigError(_too_long(config, context, spec))
    return spec


def _too_long(config: RunConfig, context: int, spec: ModelSpec) -> str:
    given, scaling = f"generators.context_length ({context})", config.model.rope_scaling
    if scaling is None:
        return (
            f"{given} must be <= max_position_embeddings of the model ({spec.max_positions}); "
            "remove the key to use the model's own limit, or scale the model with "
            "model.rope_scaling"
        )
    return (
        f"{given} must be <= the positions of the model as model.rope_scaling.factor "
        f"({scaling.factor:g}) scales it ({spec.max_positions}); remove the key to use them all, "
        "or set a larger factor"
    )


def check_precision_of(config: RunConfig, spec: ModelSpec, device: Device | None) -> None:
    """Raise ConfigError when model, layout or device cannot do what the learner computes in.

    Args:
        device: None where the learner's packages cannot be seen, and it will look itself.
    """
    learner = config.learner
    precision = resolve_precision(learner.precision, dtype=config.model.dtype)
    layout = layout_of(learner.parallel)
    if device is not None:
        check_precision(precision, learner.fp8, device)
        check_attention(precision, layout, device, spec)
        check_expert_biases(precision, device, spec)
    if precision == "fp8":
        check_fp8_sizes(spec, layout, recipe=learner.fp8.recipe)


_EMBEDDING, _OUTPUT = "model.embed_tokens.weight", "lm_head.weight"


def check_model_folder(
    folder: Path, spec: ModelSpec, *, compares_copies: bool = True
) -> Mapping[str, str]:
    """Raise ModelError naming the first tensor that disagrees with config.json.

    Only headers are read, and of a tied model that holds an output layer all the same, both copies.

    Args:
        compares_copies: whether those two are read, which takes torch.

    Returns:
        The type of each tensor as its file states it ("F32").
    """
    read = WeightReader(folder)
    stated = read.shapes_and_dtypes()
    try:
        check_tensors(spec, {name: shape for name, (shape, _) in stated.items()})
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error
    # One after the other: each may be the largest tensor of the model.
    is_second = spec.is_tied and _OUTPUT in stated
    if compares_copies and is_second and _differ(read):
        raise ModelError(
            f"{folder}: {_OUTPUT} is not the embedding, though config.json says "
            "tie_word_embeddings = true; set it to false to keep both"
        )
    return {name: dtype for name, (_, dtype) in stated.items()}


def _differ(read: WeightReader) -> bool:
    from megatron_rl.conversion.manifest import record_of  # late: it imports torch

    return record_of(read(_OUTPUT)) != record_of(read(_EMBEDDING))


def first_weights(config: RunConfig) -> Path | None:
    """Return the folder RL starts from: the cold start's export, the model, or None for random."""
    if config.sft is not None:
        return RunDir(config.run_dir).sft_hf
    return base_weights(config)


def base_weights(config: RunConfig) -> Path | None:
    """Return the folder of the untrained model's weights, None for random ones."""
    return None if config.model.init == "random" else config.model.path
