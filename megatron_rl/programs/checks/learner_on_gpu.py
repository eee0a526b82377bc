"""Learner of a run on this machine's GPUs: its precision, and the attention it would get."""

import os
from collections.abc import Iterator, Mapping

from megatron_rl.config import RunConfig, resolve_precision
from megatron_rl.errors import ConfigError, ModelError
from megatron_rl.learner.device.precision import Device
from megatron_rl.model_spec import ModelSpec
from megatron_rl.programs.builders.model import check_precision_of, trained_spec
from megatron_rl.programs.checks.finding import Finding
from megatron_rl.programs.checks.packed_attention import (
    AttentionPackages,
    PackedAttention,
    attention_finding,
)

_DETERMINISM = "NVTE_ALLOW_NONDETERMINISTIC_ALGO"


def learner_findings(
    config: RunConfig, device: Device, packages: AttentionPackages | None
) -> Iterator[Finding]:
    """Yield what the run's learner can compute in here, and with which attention.

    Args:
        packages: None where Transformer Engine is not installed or does not import.
    """
    try:
        spec = trained_spec(config)
    except (ConfigError, ModelError) as error:
        yield Finding(name="run's precision", value=f"not judged: {error}")
        return
    precision = resolve_precision(config.learner.precision, dtype=config.model.dtype)
    yield _precision(config, spec, device, precision)
    if precision == "fp32" or device.te_version is None:
        yield Finding(name="attention", value="torch's own")
    elif packages is not None and device.capability is not None:
        wanted = wanted_attention(config, spec, os.environ)
        yield attention_finding(wanted, packages, device.capability)


def wanted_attention(
    config: RunConfig, spec: ModelSpec, environment: Mapping[str, str]
) -> PackedAttention:
    """Return what decides between Transformer Engine's kernels."""
    return PackedAttention(
        head_dim=spec.head_dim,
        value_dim=spec.value_dim,
        cp=config.learner.parallel.cp,
        slides=spec.window is not None,
        has_sinks=spec.has_sinks,
        is_deterministic=_DETERMINISM in environment and environment[_DETERMINISM] == "0",
    )


def _precision(config: RunConfig, spec: ModelSpec, device: Device, precision: str) -> Finding:
    try:
        check_precision_of(config, spec, device)
    except ConfigError as error:
        reason, _, remedy = str(error).rpartition("; ")
        return Finding(name="run's precision", value=reason, remedy=remedy)
    name = f"fp8, {config.learner.fp8.recipe}" if precision == "fp8" else precision
    return Finding(name="run's precision", value=name)
