"""Stages of a run: what each changes, how long it lasts, and which rule ends it sooner."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from megatron_rl.config.base import Fraction, NonNegative, Positive, Section

_OWN_KEYS = {"name", "num_steps", "ends_when", "settings"}


class LengthStagnates(Section):
    """Ends a stage when completions grow no longer."""

    window: Positive = 50
    """Steps. The last ``window`` are compared with as many before them, all of this stage."""
    min_growth: Annotated[float, Field(ge=0)] = 0.02
    """Share by which the mean length must have grown for the stage to go on."""


class RewardPlateaus(Section):
    """Ends a stage when the reward of training rises no longer."""

    window: Positive = 50
    """Steps. The last ``window`` are compared with as many before them, all of this stage."""
    min_gain: Annotated[float, Field(ge=0)] = 0.005
    """Reward that must have been gained for the stage to go on."""


class PassRatePlateaus(Section):
    """Ends a stage when the held-out pass@1 rises no longer."""

    window: Positive = 100
    """Steps. The evaluations of the last ``window`` are compared with those of as many before."""
    min_gain: Annotated[float, Field(ge=0)] = 0.005
    """pass@1 that must have been gained for the stage to go on."""


class ProblemsSolved(Section):
    """Ends a stage when too many groups are dropped because every completion is right."""

    window: Positive = 20
    """Steps whose groups are counted together."""
    max_share: Fraction = 0.5
    """Share of all groups above which the stage ends."""


class EndsWhenConfig(Section):
    """Rules that end a stage before its ``num_steps``; the first that holds does."""

    min_steps: NonNegative = 0
    """Steps of this stage before which no rule ends it."""
    length_stagnates: LengthStagnates | None = None
    reward_plateaus: RewardPlateaus | None = None
    pass_rate_plateaus: PassRatePlateaus | None = None
    problems_solved: ProblemsSolved | None = None


class StageConfig(Section):
    """One stage: the run's own sections, with what it changes in them."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
    """Name of the stage, in reports and file names."""
    num_steps: Positive
    """Batches of this stage, at most."""
    ends_when: EndsWhenConfig = EndsWhenConfig()
    settings: dict[str, Any] = Field(default_factory=dict)
    """Keys of the run's sections that differ in this stage. They are written as tables of the
    stage, such as ``[stages.rollout]``."""

    @model_validator(mode="before")
    @classmethod
    def _gather_settings(cls, data: Any) -> Any:
        """Take the tables of sections, which are the run's and checked there, as settings."""
        if not isinstance(data, dict):
            return data
        own = {key: value for key, value in data.items() if key in _OWN_KEYS}
        sections = {key: value for key, value in data.items() if key not in _OWN_KEYS}
        given = own.get("settings", {})
        if not sections or not isinstance(given, dict):
            return own | sections
        return own | {"settings": {**given, **sections}}


class StagePlace(Section):
    """The stage that a configuration is of; launchers write it, and nobody else."""

    name: str
    number: Positive
    """Of the stage, from 1."""
    of: Positive
    """Stages of the run."""
    first_step: NonNegative
    """Step at which it begins."""
    planned_steps: Positive
    """Steps that it has where no rule ends it."""
    is_last: bool
    """Whether no stage comes after it."""
    ends_when: EndsWhenConfig = EndsWhenConfig()
    optimizer_steps: Positive
    """Optimiser steps that are planned for all stages, over which the learning rate decays."""
