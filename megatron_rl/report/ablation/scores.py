"""Scores of an ablation's variants: mean and spread over seeds, and paired differences. Pure."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from megatron_rl.report.ablation.records import (
    RunRecords,
    VariantRecords,
    held_out_sets,
)
from megatron_rl.report.scores import latest_evaluations, of_set
from megatron_rl.report.summary import is_number, values_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Mean over seeds with its uncertainty."""

    mean: float
    spread: float | None
    """None for a single seed, which has none."""
    num_seeds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SetScores:
    """Scores of a variant on one held-out set; each is None without a run that has it."""

    before: Spread | None
    """Where training began; ``spread`` is the standard deviation over seeds."""
    after: Spread | None
    """Of complete runs."""
    difference: Spread | None
    """From the first variant, seed by seed; ``spread`` is the standard error of the mean
    difference."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VariantScores:
    """Everything the table says of one variant."""

    name: str
    settings: str
    num_runs: int
    num_done: int
    sets: Mapping[str | None, SetScores]
    numbers: Mapping[str, Spread | None]
    """Of complete runs; ``spread`` is the standard deviation over seeds."""


def score_variants(variants: Sequence[VariantRecords]) -> list[VariantScores]:
    """Return the scores of every variant, on every held-out set that there is."""
    names = held_out_sets(variants)
    by_name = {variant.name: variant for variant in variants}
    ends = {name: {v.name: _final_scores(v, by_name, name) for v in variants} for name in names}
    return [_scores_of(variant, variants[0].name, ends) for variant in variants]


def spread_over(values: Sequence[float]) -> Spread | None:
    """Return the mean and the sample standard deviation over seeds; None without values."""
    if not values:
        return None
    deviation = stdev(values) if len(values) > 1 else None
    return Spread(mean=fmean(values), spread=deviation, num_seeds=len(values))


def paired_difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Spread | None:
    """Return the mean difference over the seeds that both have, with its standard error.

    What a seed does to both runs, such as the order of the problems, cancels.
    """
    common = sorted(values.keys() & reference.keys())
    found = spread_over([values[seed] - reference[seed] for seed in common])
    if found is None or found.spread is None:
        return found
    error = found.spread / math.sqrt(found.num_seeds)
    return Spread(mean=found.mean, spread=error, num_seeds=found.num_seeds)


def _scores_of(
    variant: VariantRecords,
    reference: str,
    ends: Mapping[str | None, Mapping[str, Mapping[int, float]]],
) -> VariantScores:
    done = [run for run in variant.runs if run.stage == "done"]
    sets = {}
    for name, finals in ends.items():
        own = finals[variant.name]
        is_first = variant.name == reference
        sets[name] = SetScores(
            before=spread_over([*_scores_at("before", variant.runs, name).values()]),
            after=spread_over([*own.values()]),
            difference=None if is_first else paired_difference(own, finals[reference]),
        )
    return VariantScores(
        name=variant.name,
        settings=variant.settings,
        num_runs=len(variant.runs),
        num_done=len(done),
        sets=sets,
        numbers={title: _number_of(done, number) for title, number in NUMBERS.items()},
    )


def _final_scores(
    variant: VariantRecords, by_name: Mapping[str, VariantRecords], set_name: str | None
) -> dict[int, float]:
    """Return the score of each seed that is compared, which borrowed starts have from the start."""
    if variant.start_of is not None:
        return _scores_at("before", by_name[variant.start_of].runs, set_name)
    done = [run for run in variant.runs if run.stage == "done"]
    return _scores_at("after", done, set_name)


def _scores_at(when: str, runs: Sequence[RunRecords], set_name: str | None) -> dict[int, float]:
    """Return pass@1 by seed, of the last evaluation at that moment."""
    scores = {}
    for run in runs:
        for record in latest_evaluations(of_set(run.evaluations, set_name)):
            if record["when"] == when and is_number(record, "pass@1"):
                scores[run.seed] = float(record["pass@1"])
    return scores


def _number_of(
    runs: Sequence[RunRecords], number: Callable[[RunRecords], float | None]
) -> Spread | None:
    values = [number(run) for run in runs]
    return spread_over([value for value in values if value is not None])


def _last_tenth(metric: str) -> Callable[[RunRecords], float | None]:
    """Return what averages a metric over the last tenth of a run: one batch is noisy."""

    def number(run: RunRecords) -> float | None:
        values = values_of(run.metrics, metric)
        return fmean(values[-max(1, len(values) // 10) :]) if values else None

    return number


def _total(metric: str) -> Callable[[RunRecords], float | None]:
    def number(run: RunRecords) -> float | None:
        values = values_of(run.metrics, metric)
        return sum(values) if values else None

    return number


NUMBERS: dict[str, Callable[[RunRecords], float | None]] = {
    "reward": _last_tenth("reward/total"),
    "length": _last_tenth("rollout/length_mean"),
    "entropy": _last_tenth("policy/entropy"),
    "steps": lambda run: float(run.metrics[-1]["step"]) if run.metrics else None,
    "prompts": _total("rollout/started_groups"),
    "tokens": _total("rollout/trained_tokens"),
    "seconds": lambda run: run.wall_s,
}
"""Further numbers of a complete run; the first three are means over its last tenth."""
