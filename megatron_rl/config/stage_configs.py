"""Configurations of a run's stages: its sections with what each stage changes in them."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from megatron_rl.config.held_out import held_out_sets
from megatron_rl.config.resolve import resolve_sections
from megatron_rl.config.sections import RunConfig
from megatron_rl.config.stages import EndsWhenConfig, StageConfig, StagePlace
from megatron_rl.errors import ConfigError

_FIXED = {
    "run_dir": "all stages are in one folder",
    "seed": "the curriculum goes on",
    "num_steps": "write it beside the stage's name",
    "stages": "stages have no stages",
    "stage": "launchers write it",
    "model": "the policy goes on",
    "sft": "the cold start comes before all stages",
    "launch": "one job goes through all stages",
    "telemetry": "all stages write to the same places",
    "difficulty": "problems are filtered before all stages",
}
"""Why a stage cannot change a section or key."""


def staged_config(config: RunConfig, number: int, *, first_step: int, end: int) -> RunConfig:
    """Return the configuration of stage ``number`` (from 1), which begins at ``first_step``.

    Its ``num_steps`` is ``end``. A stage that is over, as the last one may be by a rule, has as its
    end the step at which it was over, and no rules.
    """
    stage = config.stages[number - 1]
    is_over = end < first_step + stage.num_steps
    place = StagePlace(
        name=stage.name,
        number=number,
        of=len(config.stages),
        first_step=first_step,
        planned_steps=stage.num_steps,
        is_last=number == len(config.stages),
        ends_when=EndsWhenConfig() if is_over else stage.ends_when,
        optimizer_steps=optimizer_steps(config),
    )
    merged = _merged(config, stage)
    return merged.model_copy(update={"num_steps": end, "stage": place})


def planned_stages(config: RunConfig, ends: Sequence[int] = ()) -> tuple[RunConfig, ...]:
    """Return the configurations of all stages, one after the other as long as each may last.

    A run without stages is its own only one.

    Args:
        config: the run.
        ends: steps at which the first stages have ended.
    """
    if not config.stages:
        return (config,)
    found, first = [], 0
    for number, stage in enumerate(config.stages, start=1):
        end = ends[number - 1] if number <= len(ends) else first + stage.num_steps
        found.append(staged_config(config, number, first_step=first, end=end))
        first = end
    return tuple(found)


def optimizer_steps(config: RunConfig) -> int:
    """Return the optimiser steps of a whole run, as planned."""
    if config.stage is not None:
        return config.stage.optimizer_steps
    if not config.stages:
        return config.num_steps * config.rollout.minibatches
    return sum(
        stage.num_steps * _merged(config, stage).rollout.minibatches for stage in config.stages
    )


def with_steps_of_stages(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return parsed TOML with ``num_steps`` as the sum of its stages', where it has stages.

    Raises:
        ConfigError: another number is given.
    """
    stages = data.get("stages")
    if not isinstance(stages, list | tuple) or not stages:
        return dict(data)
    numbers = [stage.get("num_steps") for stage in stages if isinstance(stage, Mapping)]
    total = sum(number for number in numbers if isinstance(number, int))
    if "num_steps" in data and data["num_steps"] != total:
        raise ConfigError(
            f"num_steps ({data['num_steps']}) must be the sum of the stages' ({total}); remove it"
        )
    return {**data, "num_steps": max(total, 1)}


def check_stages(config: RunConfig) -> RunConfig:
    """Return a run whose stages' settings are resolved as its own are: paths are absolute.

    Raises:
        ConfigError: names the stage, and the key, value, rule and remedy.
    """
    names = [stage.name for stage in config.stages]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f'stages: two have the name "{name}"; rename one')
    resolved = []
    for stage in config.stages:
        merged = _merged(config, stage)
        for broken in _idle_rules(stage, merged):
            raise ConfigError(broken)
        settings = _same_keys(stage.settings, merged.model_dump(mode="json"))
        resolved.append(stage.model_copy(update={"settings": settings}))
    for broken in _between(config):
        raise ConfigError(broken)
    return config.model_copy(update={"stages": tuple(resolved)})


def _between(config: RunConfig) -> Iterator[str]:
    """Yield what is wrong of a stage and the one before it."""
    plans = planned_stages(config)
    for before, after in itertools.pairwise(plans):
        assert before.stage is not None and after.stage is not None
        least = before.learner.token_budget
        if before.stage.ends_when == EndsWhenConfig():
            continue
        waits = (
            f'that of "{before.stage.name}", which a rule may end while batches wait to be trained '
            "on"
        )
        if after.learner.token_budget < least:
            yield (
                f'stages: learner.token_budget ({after.learner.token_budget}) of "'
                f'{after.stage.name}" must be >= {least}, {waits}; raise it, or remove ends_when'
            )
        key, given = "generators.sampling.temperature", after.generators.sampling.temperature
        if given != (sampled := before.generators.sampling.temperature):
            yield (
                f'stages: {key} ({given}) of "{after.stage.name}" must be {sampled}, {waits} with '
                "log-probs of that temperature; set it, or remove ends_when"
            )


def _idle_rules(stage: StageConfig, merged: RunConfig) -> Iterator[str]:
    """Yield which rules could never end a stage."""
    rules, sets = stage.ends_when, held_out_sets(merged)
    where = f'stage "{stage.name}": ends_when'
    for key in ("length_stagnates", "reward_plateaus", "pass_rate_plateaus"):
        rule = getattr(rules, key)
        if rule is not None and 2 * rule.window > stage.num_steps:
            yield (
                f"{where}.{key}.window ({rule.window}) must be <= {stage.num_steps // 2}, half of "
                "the stage's num_steps, for two windows to be compared"
            )
    rule = rules.pass_rate_plateaus
    if rule is not None and (not sets or not 0 < sets[0].every <= rule.window):
        every = f"every {sets[0].every} versions" if sets else "never"
        yield (
            f"{where}.pass_rate_plateaus.window ({rule.window}) must hold an evaluation of the "
            f"first held-out set, which is sampled {every}; see evaluation.every"
        )
    if rules.problems_solved is not None and merged.rollout.drop_zero_advantage == "never":
        yield (
            f"{where}.problems_solved needs groups that are dropped, and "
            'rollout.drop_zero_advantage is "never"; remove one'
        )


def _merged(config: RunConfig, stage: StageConfig) -> RunConfig:
    for key, why in _FIXED.items():
        if key in stage.settings:
            raise ConfigError(f'stage "{stage.name}": {key} cannot differ in a stage: {why}')
    data = config.model_dump(mode="json", exclude={"stages", "stage"})
    try:
        return resolve_sections(_overlaid(data, stage.settings))
    except ConfigError as error:
        raise ConfigError(f'stage "{stage.name}": {error}') from error


def _overlaid(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        is_table = isinstance(inner, Mapping) and isinstance(value, Mapping)
        merged[key] = _overlaid(inner, value) if is_table else value  # type: ignore[arg-type]
    return merged


def _same_keys(settings: Mapping[str, Any], merged: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that the keys of settings have in a merged configuration."""
    return {
        key: _same_keys(value, merged[key])
        if isinstance(value, Mapping) and isinstance(merged[key], Mapping)
        else merged[key]
        for key, value in settings.items()
    }
