"""Build the learner of this rank from a run's configuration."""

import os
from pathlib import Path

from megatron_rl.algorithm.losses import PolicyObjective
from megatron_rl.config import (
    OptimizerConfig,
    RunConfig,
    resolve_chunk_tokens,
    resolve_precision,
)
from megatron_rl.learner.device.apex import check_apex
from megatron_rl.learner.device.determinism import MEGATRON_FIELDS, compute_deterministically
from megatron_rl.learner.device.parallel import (
    Parallel,
    initialize_parallel,
    rank_from_environment,
)
from megatron_rl.learner.device.platform import Platform, detect_platform
from megatron_rl.learner.device.precision import Device
from megatron_rl.learner.learner import Learner, LearnerSettings
from megatron_rl.learner.model.overrides import check_overrides
from megatron_rl.programs.builders.hardware import installed_version
from megatron_rl.programs.builders.model import check_precision_of, layout_of, trained_spec

_MIB = 2**20


def open_learner(
    config: RunConfig,
    optimizer: OptimizerConfig,
    *,
    objective: PolicyObjective | None,
    pretrained: Path | None,
    temperature: float,
    total_steps: int,
) -> tuple[Learner, Parallel, Platform]:
    """Join the other ranks and build the learner.

    Args:
        optimizer: of this phase; the cold start has its own.
        objective: of RL, see builders.objective; None for supervised training or scoring.
        pretrained: Hugging Face folder of the first weights; None makes them up from the seed.
        temperature: divides the logits; that of sampling for RL, 1 for supervised training.
        total_steps: optimiser steps of the whole phase, for the schedule.

    Raises:
        ConfigError: this rank's device, or a package on it, cannot do what is configured.
    """
    check_apex()
    check_overrides(config.learner.megatron)
    spec = trained_spec(config)
    rank_info = rank_from_environment(os.environ)
    if config.learner.deterministic:
        compute_deterministically(os.environ)
    platform = detect_platform(
        cpu_threads=config.learner.cpu_threads, local_rank=rank_info.local_rank
    )
    device = Device(
        capability=platform.capability, te_version=installed_version("transformer-engine")
    )
    check_precision_of(config, spec, device)
    platform.install()
    layout = layout_of(config.learner.parallel)
    chunk_tokens = resolve_chunk_tokens(
        config.learner.logprob_chunk_tokens,
        vocab_size=spec.vocab_size,
        tp=layout.tp,
        is_gpu=platform.capability is not None,
    )
    parallel = initialize_parallel(rank_info, platform, layout, seed=config.seed)
    learner = Learner(
        spec,
        _settings(config, optimizer, objective, temperature, total_steps, chunk_tokens),
        parallel,
        platform,
        pretrained=pretrained,
        seed=config.seed,
    )
    return learner, parallel, platform


def _settings(
    config: RunConfig,
    optimizer: OptimizerConfig,
    objective: PolicyObjective | None,
    temperature: float,
    total_steps: int,
    chunk_tokens: int,
) -> LearnerSettings:
    return LearnerSettings(
        dtype=config.model.dtype,
        precision=resolve_precision(config.learner.precision, dtype=config.model.dtype),
        fp8=config.learner.fp8,
        loss_scale=config.learner.loss_scale,
        token_budget=config.learner.token_budget,
        logprob_chunk_tokens=chunk_tokens,
        fp32_lm_head=config.learner.fp32_lm_head,
        temperature=temperature,
        objective=objective,
        optimizer=optimizer,
        total_steps=total_steps,
        overlap_grad_reduce=config.learner.parallel.overlap_grad_reduce,
        overlap_param_gather=config.learner.parallel.overlap_param_gather,
        weight_batch_bytes=config.weights.bucket_mb * _MIB,
        megatron=config.learner.megatron
        | (MEGATRON_FIELDS if config.learner.deterministic else {}),
    )
