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


def check_precision_of(config: RunConfig, spec: ModelSpec, device: Device) -> None:
    """Raise ConfigError when model, layout or device cannot do what the learner computes in."""
    learner = config.learner
    precision = resolve_precision(learner.precision, dtype=config.model.dtype)
    check_precision(precision, learner.fp8, device)
    layout = layout_of(learner.parallel)
    check_attention(precision, layout, device, slides=spec.window is not None)
    if precision == "fp8":
        check_fp8_sizes(shape_of(spec), layout, recipe=learner.fp8.recipe)
