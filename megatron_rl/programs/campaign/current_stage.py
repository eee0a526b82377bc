"""Current stage of a run: the configuration that its programs run with now."""

import contextlib
from collections.abc import Iterator

from megatron_rl.config import RunConfig, planned_stages, staged_config
from megatron_rl.errors import ConfigError, DataError, ModelError
from megatron_rl.run_dir import RunDir
from megatron_rl.stage_record import StageEnd, read_stage_ends


def current_stage(config: RunConfig) -> RunConfig:
    """Return the configuration of the stage that a run is in; its own where it has no stages.

    After the last stage it is that of the last, with the step at which it ended: what is left is
    to export the model and to evaluate it.
    """
    if not config.stages:
        return config
    ends = _ends_of(config)
    if len(ends) == len(config.stages):
        last = ends[-1]
        return staged_config(config, last.number, first_step=last.first_step, end=last.end)
    return planned_stages(config, [ended.end for ended in ends])[len(ends)]


def _ends_of(config: RunConfig) -> list[StageEnd]:
    """Return the stages that are over; none of a run without stages.

    Raises:
        ConfigError: the run has gone through others, or a stage that is over is to be longer.
    """
    ends = read_stage_ends(RunDir(config.run_dir))
    recorded, names = [end.name for end in ends], [stage.name for stage in config.stages]
    if recorded != names[: len(recorded)]:
        raise ConfigError(
            f"stages ({', '.join(names)}) must begin with those that the run in {config.run_dir} "
            f"has gone through ({', '.join(recorded)}); put them back, or name a new run_dir"
        )
    for end, stage in zip(ends, config.stages, strict=False):
        if end.planned_steps != stage.num_steps:
            raise ConfigError(
                f'stage "{stage.name}": num_steps ({stage.num_steps}) must be {end.planned_steps}, '
                "since the stage is over; to train on, add a stage behind the last"
            )
    return ends


@contextlib.contextmanager
def naming(stage: RunConfig) -> Iterator[None]:
    """Put the name of a stage before what is wrong with it."""
    try:
        yield
    except (ConfigError, DataError, ModelError) as error:
        if stage.stage is None:
            raise
        raise type(error)(f'stage "{stage.stage.name}": {error}') from error


def stages_left(config: RunConfig) -> Iterator[RunConfig]:
    """Yield the configuration of one stage after the other, as each is over when asked for more.

    A stage that a rule ended is followed by the next; the last, by itself with nothing to train.
    """
    while True:
        stage = current_stage(config)
        yield stage
        if is_run_over(stage):
            return


def is_run_over(stage: RunConfig) -> bool:
    """Return whether nothing comes after the programs of a stage that have ended well."""
    if stage.stage is None:
        return True
    ends = read_stage_ends(RunDir(stage.run_dir))
    return len(ends) == stage.stage.of and ends[-1].end == stage.num_steps


def ends_the_run(stage: RunConfig, step: int) -> bool:
    """Return whether the programs of a stage end the run when they stop at ``step``.

    A last stage that a rule ends is begun once more: by then all programs know its last step.
    """
    return stage.stage is None or (stage.stage.is_last and step == stage.num_steps)


def refuse_unplaced(config: RunConfig, program: str) -> None:
    """Refuse a run with stages of which it is not said which one is on.

    Raises:
        ConfigError: names the files that say it.
    """
    if config.stages and config.stage is None:
        folder = RunDir(config.run_dir).root / "stages"
        raise ConfigError(
            f"{program}: the run has {len(config.stages)} stages; give the configuration of one, "
            f"which train and job write to {folder}"
        )


def final_stage(config: RunConfig) -> RunConfig:
    """Return the configuration of the last stage, which says when a run is complete.

    It has the step at which the run ends where rules ended stages sooner. A run without stages is
    its own.
    """
    return planned_stages(config, [ended.end for ended in _ends_of(config)])[-1]
