"""Records of an ablation's runs, as the report reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from megatron_rl.report.summary import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecords:
    """What one run has recorded so far."""

    seed: int
    stage: Literal["done", "failed", "begun", "waiting"]
    progress: str
    """How far it has come, for people."""
    metrics: Sequence[Record]
    """One a step, each step once."""
    evaluations: Sequence[Record]
    wall_s: float | None
    """Seconds over all its lives; None before one has ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VariantRecords:
    """A variant with its runs, in the order of the seeds."""

    name: str
    settings: str
    """What it changes, for people."""
    runs: Sequence[RunRecords]
    start_of: str | None = None
    """The variant whose first evaluations are this one's scores; it has no runs."""


def set_name(evaluation: Record) -> str | None:
    """Return the name of the held-out set of an evaluation; None for the one without a name."""
    return evaluation["set"] if "set" in evaluation else None


def of_set(evaluations: Sequence[Record], name: str | None) -> list[Record]:
    """Return the evaluations on one held-out set."""
    return [evaluation for evaluation in evaluations if set_name(evaluation) == name]


def held_out_sets(variants: Sequence[VariantRecords]) -> list[str | None]:
    """Return the names of the sets that runs were evaluated on, in the order they were met."""
    names = (set_name(e) for v in variants for run in v.runs for e in run.evaluations)
    return list(dict.fromkeys(names))


def score_title(name: str | None) -> str:
    """Return how the score on a held-out set is called."""
    return "held-out pass@1" if name is None else f"pass@1 on {name}"
