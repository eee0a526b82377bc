"""Sources of the problems to train on, checked and opened, and the curriculum made of them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from megatron_rl.config import RunConfig, SourceConfig
from megatron_rl.data.curriculum import Curriculum, CurriculumSource
from megatron_rl.programs.builders.prompts import PromptSet, load_run_prompts, training_sources
from megatron_rl.programs.curriculum.shares import group_size_of, mixture_lines

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSource:
    """A source with its problems and prompts."""

    config: SourceConfig
    prompts: PromptSet


def load_train_sources(config: RunConfig, tokenizer: Any) -> tuple[TrainSource, ...]:
    """Check and open every file of problems to train on; see :func:`load_run_prompts`."""
    loaded = tuple(
        TrainSource(
            config=source,
            prompts=load_run_prompts(_asking_as(config, source), problems, tokenizer),
        )
        for source, problems in zip(config.data.sources, training_sources(config.data), strict=True)
    )
    for line in mixture_lines(config, [len(source.prompts.problems) for source in loaded]):
        _LOG.info("%s", line)
    return loaded


def curriculum_sources(
    config: RunConfig, loaded: Sequence[TrainSource]
) -> tuple[CurriculumSource, ...]:
    """Return the sources as the curriculum takes problems from them."""
    return tuple(
        CurriculumSource(
            name=source.config.label if config.data.is_mixture else "",
            problems=source.prompts.problems,
            prompts=source.prompts.prompts,
            weight=source.config.weight,
            group_size=group_size_of(config, source.config),
        )
        for source in loaded
    )


def open_curriculum(config: RunConfig, sources: Sequence[CurriculumSource]) -> Curriculum:
    """Return the problems of the run, by the index of a group."""
    return Curriculum(sources, seed=config.seed, shuffle=config.data.shuffle)


def _asking_as(config: RunConfig, source: SourceConfig) -> RunConfig:
    """Return the configuration with the source's own system prompt, if it has one."""
    if source.system_prompt is None:
        return config
    data = config.data.model_copy(update={"system_prompt": source.system_prompt})
    return config.model_copy(update={"data": data})
