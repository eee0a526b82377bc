"""Sources of the problems to train on, checked and opened, and the curriculum made of them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megatron_rl.config import RunConfig, SourceConfig
from megatron_rl.data.curriculum.by_index import IndexCurriculum
from megatron_rl.data.curriculum.lifecycle import LifecycleCurriculum
from megatron_rl.data.curriculum.source import CurriculumSource
from megatron_rl.data.curriculum.standing import LifecycleRules
from megatron_rl.data.lazy_sequence import JoinedSequence
from megatron_rl.errors import DataError
from megatron_rl.programs.builders.prompts import (
    ProblemSource,
    PromptSet,
    load_run_prompts,
    reserve_sources,
    training_sources,
)
from megatron_rl.programs.curriculum.shares import group_size_of, mixture_lines

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSource:
    """A source with its problems and prompts."""

    config: SourceConfig
    prompts: PromptSet
    reserve: PromptSet | None
    """Harder problems, none of which is in ``prompts``."""


def load_train_sources(config: RunConfig, tokenizer: Any) -> tuple[TrainSource, ...]:
    """Check and open every file of problems to train on; see :func:`load_run_prompts`.

    Raises:
        DataError: as that says, or a reserve has nothing of its own.
    """
    files = zip(
        config.data.sources,
        training_sources(config.data),
        reserve_sources(config.data),
        strict=True,
    )
    loaded = tuple(
        _load(_asking_as(config, source), source, train, reserve, tokenizer)
        for source, train, reserve in files
    )
    for line in mixture_lines(config, [len(source.prompts.problems) for source in loaded]):
        _LOG.info("%s", line)
    return loaded


def curriculum_sources(
    config: RunConfig, loaded: Sequence[TrainSource]
) -> tuple[CurriculumSource, ...]:
    """Return the sources as the curriculum takes problems from them."""
    return tuple(_curriculum_source(config, source) for source in loaded)


def open_curriculum(
    config: RunConfig, sources: Sequence[CurriculumSource]
) -> IndexCurriculum | LifecycleCurriculum:
    """Return what the groups of the run work on, as of its start."""
    seed, shuffle, lifecycle = config.seed, config.data.shuffle, config.data.lifecycle
    if lifecycle is None:
        return IndexCurriculum(sources, seed=seed, shuffle=shuffle)
    rules = LifecycleRules(**lifecycle.model_dump())
    return LifecycleCurriculum(sources, seed=seed, shuffle=shuffle, rules=rules)


def _load(
    config: RunConfig,
    source: SourceConfig,
    train: ProblemSource,
    reserve: ProblemSource | None,
    tokenizer: Any,
) -> TrainSource:
    prompts = load_run_prompts(config, train, tokenizer)
    own = None
    if reserve is not None:
        harder = load_run_prompts(config, reserve, tokenizer)
        own = harder.at(np.flatnonzero(~np.isin(harder.keys_P, prompts.keys_P)).tolist())
        _say_reserve(source, num_own=len(own.problems), num=len(harder.problems))
    return TrainSource(config=source, prompts=prompts, reserve=own)


def _say_reserve(source: SourceConfig, *, num_own: int, num: int) -> None:
    if num_own == 0:
        raise DataError(
            f"{source.reserve}: each of its {num} problems is in {source.path} as well; a reserve "
            "has problems that are not trained on from the start"
        )
    _LOG.info("%s: %s problems in reserve", source.reserve, f"{num_own:,}")
    if num_own < num:
        _LOG.info(
            "%s: %s problems are left out of the reserve, since %s has them",
            *(source.reserve, f"{num - num_own:,}", source.path),
        )


def _curriculum_source(config: RunConfig, source: TrainSource) -> CurriculumSource:
    train, reserve = source.prompts, source.reserve
    problems, prompts, keys_P = train.problems, train.prompts, train.keys_P
    if reserve is not None:
        problems = JoinedSequence(problems, reserve.problems)
        prompts = JoinedSequence(prompts, reserve.prompts)
        keys_P = np.concatenate([keys_P, reserve.keys_P])
    return CurriculumSource(
        name=source.config.label if config.data.is_mixture else "",
        problems=problems,
        prompts=prompts,
        keys_P=keys_P,
        num_reserve=0 if reserve is None else len(reserve.problems),
        weight=source.config.weight,
        group_size=group_size_of(config, source.config),
    )


def _asking_as(config: RunConfig, source: SourceConfig) -> RunConfig:
    """Return the configuration with the source's own system prompt, if it has one."""
    if source.system_prompt is None:
        return config
    data = config.data.model_copy(update={"system_prompt": source.system_prompt})
    return config.model_copy(update={"data": data})
