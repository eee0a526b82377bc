"""From a run's configuration to a learner on this rank."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from megatron_rl.algorithm.losses import PolicyObjective
from megatron_rl.config import OptimizerConfig, RunConfig
from megatron_rl.conversion.families import read_model_spec
from megatron_rl.learner.learner import Learner, LearnerSettings
from megatron_rl.learner.parallel import Parallel, initialize_parallel, place_from_environment
from megatron_rl.learner.platform import Platform, detect_platform
from megatron_rl.programs.layout import layout_of


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
        objective: of RL, see programs.objective; None for supervised training or scoring.
        pretrained: Hugging Face folder of the first weights; None makes them up from the seed.
        temperature: divides the logits; that of sampling for RL, 1 for supervised training.
        total_steps: optimiser steps of the whole phase, for the schedule.
    """
    place = place_from_environment(os.environ)
    platform = detect_platform(cpu_threads=config.learner.cpu_threads, local_rank=place.local_rank)
    platform.install()
    layout = layout_of(config.learner.parallel)
    parallel = initialize_parallel(place, platform, layout, seed=config.seed)
    learner = Learner(
        read_model_spec(config.model.path),
        _settings(config, optimizer, objective, temperature, total_steps),
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
) -> LearnerSettings:
    values: dict[str, Any] = optimizer.model_dump()
    settings = LearnerSettings(
        dtype=config.model.dtype,
        token_budget=config.learner.token_budget,
        logprob_chunk_tokens=config.learner.logprob_chunk_tokens,
        fp32_lm_head=config.learner.fp32_lm_head,
        temperature=temperature,
        objective=objective,
        total_steps=total_steps,
        overlap_grad_reduce=config.learner.parallel.overlap_grad_reduce,
        overlap_param_gather=config.learner.parallel.overlap_param_gather,
        megatron=dict(config.learner.megatron),
        **values,
    )
    assert set(values) <= {field.name for field in dataclasses.fields(settings)}
    return settings
