"""The precision a configuration asks for, checked against model, layout and device."""

from megatron_rl.config import RunConfig, resolve_precision
from megatron_rl.conversion.families import ModelSpec
from megatron_rl.learner.precision import (
    Device,
    check_attention,
    check_fp8_sizes,
    check_precision,
)
from megatron_rl.learner.shape import shape_of
from megatron_rl.programs.layout import layout_of


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
        check_attention(precision, layout, device, slides=spec.window is not None)
    if precision == "fp8":
        check_fp8_sizes(shape_of(spec), layout, recipe=learner.fp8.recipe)
