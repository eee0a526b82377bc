"""Plan of an ablation: the configuration of every run, resolved and checked before one starts."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_rl.config import (
    RunConfig,
    correction_bounds,
    load_config,
    loss_settings,
    with_filled_sets,
)
from megatron_rl.errors import ConfigError, DataError, ModelError
from megatron_rl.programs.ablation.definition import (
    Definition,
    Variant,
    flat_settings,
    overrides_of,
    toml_value,
)
from megatron_rl.run_dir import RunDir


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedStart:
    """The cold start that several runs begin at."""

    name: str
    config: RunConfig

    @property
    def weights(self) -> Path:
        """The model it leaves; the folder appears whole."""
        return RunDir(self.config.run_dir).sft_hf

    @property
    def is_done(self) -> bool:
        """Whether its model is there."""
        return RunDir(self.config.run_dir).is_cold_start_done

    @property
    def selects_by_evaluation(self) -> bool:
        """Whether held-out problems choose its model, which takes a server."""
        return self.config.sft is not None and self.config.sft.select == "evaluation"


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRun:
    """One variant with one seed."""

    variant: str
    seed: int
    config: RunConfig
    start: PlannedStart | None
    """None for a run that begins at the base configuration's own model."""

    @property
    def name(self) -> str:
        """Its folder, below that of the ablation."""
        return f"{self.variant}/seed_{self.seed}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything that an ablation runs, in order."""

    path: Path
    """The file that defines it."""
    definition: Definition
    starts: Sequence[PlannedStart]
    overrides: Sequence[str]
    """What all runs and starts change of the base, as ``--set`` has it."""
    runs: Sequence[PlannedRun]
    """All variants with the first seed, then all with the second: comparable from the beginning."""

    def of_variant(self, name: str) -> list[PlannedRun]:
        """Return the runs of a variant."""
        return [run for run in self.runs if run.variant == name]


def make_plan(path: Path, definition: Definition, overrides: Sequence[str] = ()) -> Plan:
    """Resolve every run.

    Args:
        path: the definition's file, for errors.
        definition: what is in it.
        overrides: ``--set`` of the command line, beneath what the variants set.

    Raises:
        ConfigError: names the variant, key, value, rule and, for an unknown key, the nearest one.
    """
    common = [*overrides_of(definition.base_overrides), *overrides]
    base = load_config(definition.base, common)
    run = [variant for variant in definition.variants if variant.start_of is None]
    starts: dict[int, PlannedStart] = {}
    if base.sft is not None and any(variant.begins_at == "start" for variant in run):
        for seed in definition.seeds:
            chosen = seed if definition.start_per_seed else base.seed
            starts[seed] = _planned_start(definition, common, seed=chosen)
    runs = [
        _planned_run(path, definition, common, variant, seed, starts)
        for seed in definition.seeds
        for variant in run
    ]
    _refuse_equal(path, runs)
    unique = {start.name: start for start in starts.values()}
    return Plan(
        path=path,
        definition=definition,
        overrides=common,
        starts=[*unique.values()],
        runs=runs,
    )


def validate_runs(
    plan: Plan, runs: Sequence[PlannedRun], validate: Callable[[RunConfig], None]
) -> None:
    """Refuse now what ``train`` would refuse when a run's turn comes.

    Seeds change nothing of it, so each variant is looked at once. The start's weights may not be
    there yet; in their place stands the model that they are made of, which has the same shapes and
    tokenizer.

    Args:
        plan: the plan.
        runs: those of its runs that are to be run.
        validate: raises what is wrong with one of them.

    Raises:
        ConfigError, DataError, ModelError: as ``train`` does, with the variant's name before it.
    """
    starts = [run.start for run in runs if run.start is not None and not run.start.is_done]
    for start in starts[:1]:
        _validate(start.config, f"{plan.path}: the start", validate)
    seen = set()
    for run in runs:
        if run.variant not in seen:
            seen.add(run.variant)
            who = f'{plan.path}: variant "{run.variant}"'
            _validate(_with_weights_to_look_at(run), who, validate)


def choose_runs(plan: Plan, wanted: Sequence[str]) -> list[PlannedRun]:
    """Return the runs that ``VARIANT`` or ``VARIANT/SEED`` name, in the plan's order.

    Raises:
        ConfigError: there is no such run; names the nearest.
    """
    chosen = set()
    for name in wanted:
        found = [run.name for run in plan.runs if name in _names_of(run)]
        if not found:
            known = [known for run in plan.runs for known in _names_of(run)]
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            variants = ", ".join(dict.fromkeys(run.variant for run in plan.runs))
            hint = f"did you mean {close[0]}?" if close else f"variants: {variants}"
            raise ConfigError(f"--only {name}: there is no such run; {hint}")
        chosen.update(found)
    return [run for run in plan.runs if run.name in chosen]


def _names_of(run: PlannedRun) -> tuple[str, ...]:
    return run.variant, f"{run.variant}/{run.seed}", run.name


def _planned_start(definition: Definition, common: Sequence[str], *, seed: int) -> PlannedStart:
    name = f"start/seed_{seed}"
    own = [f"seed={seed}", _run_dir(definition, name)]
    return PlannedStart(name=name, config=load_config(definition.base, [*common, *own]))


def _planned_run(
    path: Path,
    definition: Definition,
    common: Sequence[str],
    variant: Variant,
    seed: int,
    starts: dict[int, PlannedStart],
) -> PlannedRun:
    start = starts[seed] if variant.begins_at == "start" and seed in starts else None
    begin = [] if start is None else [*_begin_at(path, variant, start)]
    own = [*overrides_of(variant.set), f"seed={seed}"]
    own.append(_run_dir(definition, f"{variant.name}/seed_{seed}"))
    try:
        config = load_config(definition.base, [*common, *begin, *own])
    except ConfigError as error:
        raise ConfigError(f'{path}: variant "{variant.name}": {error}') from error
    return PlannedRun(variant=variant.name, seed=seed, config=config, start=start)


def _begin_at(path: Path, variant: Variant, start: PlannedStart) -> Iterator[str]:
    """Yield the settings by which a run begins where the start ended."""
    changed = flat_settings(variant.set)
    for key in ("model.path", "model.init"):
        if key in changed:
            raise ConfigError(
                f'{path}: variant "{variant.name}": {key} ({changed[key]!r}) cannot be set by a '
                'variant that begins at the start; say begins_at = "model", or leave it out'
            )
    yield f"model.path={toml_value(str(start.weights))}"
    yield "model.init=pretrained"
    # A variant that sets some of it has supervised training of its own, on top of the start.
    if not any(key.startswith("sft.") for key in changed):
        yield "sft=null"


def _run_dir(definition: Definition, name: str) -> str:
    return f"run_dir={toml_value(str(definition.run_dir / name))}"


def _refuse_equal(path: Path, runs: Sequence[PlannedRun]) -> None:
    """Refuse two variants that are the same run, also where one spells a default out."""
    known: list[tuple[dict[str, Any], str]] = []
    for run in runs:
        if run.seed != runs[0].seed:
            continue
        meaning = _meaning_of(run.config)
        for other, name in known:
            if other == meaning:
                raise ConfigError(
                    f'{path}: variant "{run.variant}" is the same run as variant "{name}": no '
                    "setting has another value; change one, or remove it"
                )
        known.append((meaning, run.variant))


def _meaning_of(config: RunConfig) -> dict[str, Any]:
    """Return the settings of a run, with defaults that depend on others filled in."""
    algorithm, rollout = config.algorithm, config.rollout
    bounds = correction_bounds(algorithm)
    minibatch = rollout.n_batch if rollout.n_minibatch is None else rollout.n_minibatch
    settings = loss_settings(algorithm)
    filled = {name: getattr(settings, name) for name in type(settings).__slots__}
    if bounds is not None:
        filled |= {"correction_low": bounds.low, "correction_high": bounds.high}
    plain: dict[str, Any] = with_filled_sets(config).model_dump(mode="json", exclude={"run_dir"})
    return plain | {
        "algorithm": plain["algorithm"] | filled,
        "rollout": plain["rollout"] | {"n_minibatch": minibatch},
    }


def _with_weights_to_look_at(run: PlannedRun) -> RunConfig:
    if run.start is None or run.start.is_done:
        return run.config
    source = run.start.config.model
    beginning = {"path": source.path, "init": source.init}
    model = run.config.model.model_copy(update=beginning)
    return run.config.model_copy(update={"model": model})


def _validate(config: RunConfig, who: str, validate: Callable[[RunConfig], None]) -> None:
    try:
        validate(config)
    except (ConfigError, DataError, ModelError) as error:
        raise type(error)(f"{who}: {error}") from error
