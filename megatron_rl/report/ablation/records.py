"""Records of an ablation's runs, as the report reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from megatron_rl.report.scores import sets_in
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


def held_out_sets(variants: Sequence[VariantRecords]) -> list[str | None]:
    """Return the names of the sets that runs were evaluated on, None for the one without a name."""
    return sets_in([record for v in variants for run in v.runs for record in run.evaluations])


def score_title(name: str | None) -> str:
    """Return how the score on a held-out set is called."""
    return "held-out pass@1" if name is None else f"pass@1 on {name}"
