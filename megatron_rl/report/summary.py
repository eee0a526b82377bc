"""Summary of a run: one flat dict made from the metric files. Pure."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from megatron_rl.report.scores import Record, latest_evaluations, of_set, sets_in

_SCORES = ("pass@1", "pass@k", "maj@k")


def summarize(
    *,
    metrics: Iterable[Record],
    evaluations: Iterable[Record],
    sft_metrics: Iterable[Record],
    phase_seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Compose summary.json; a number that no record supports is None.

    Args:
        metrics: records of metrics.jsonl, one per learner step.
        evaluations: records of evaluations.jsonl.
        sft_metrics: records of sft/metrics.jsonl; empty without a cold start.
        phase_seconds: wall seconds of each phase by name; may be empty.
    """
    steps = latest_by(metrics, "step")
    return {
        **_summarize_evaluations(latest_evaluations(evaluations)),
        **_summarize_training(steps),
        **_summarize_throughput(steps),
        **_summarize_sft(latest_by(sft_metrics, "step")),
        **{f"wall_s/{phase}": seconds for phase, seconds in phase_seconds.items()},
        "wall_s": sum(phase_seconds.values()) if phase_seconds else None,
    }


def phase_seconds(phases: Iterable[Record]) -> dict[str, float]:
    """Return the wall seconds spent in each phase, over all lives of the run.

    Args:
        phases: records of phases.jsonl.
    """
    seconds: Counter[str] = Counter()
    for record in phases:
        seconds[record["phase"]] += record["end"] - record["start"]
    return {phase: round(total, 1) for phase, total in seconds.items()}


def latest_by(records: Iterable[Record], key: str) -> list[Record]:
    """Sort by ``key``, keeping the last record of each value: a resumed run repeats steps."""
    return [record for _, record in sorted({record[key]: record for record in records}.items())]


def sampled_version(evaluation: Record) -> float:
    """Return the mean version of the tokens that were scored: a run trains on meanwhile."""
    key = "version_mean" if is_number(evaluation, "version_mean") else "version"
    return float(evaluation[key])


def values_of(records: Iterable[Record], key: str) -> list[float]:
    """The finite values of ``key``, in order."""
    return [record[key] for record in records if is_number(record, key)]


def is_number(record: Record, key: str) -> bool:
    """Whether the record holds a finite number under ``key``."""
    return key in record and record[key] is not None and math.isfinite(record[key])


def weighted_mean(records: Sequence[Record], key: str, weight: str) -> float | None:
    """Mean of ``key`` weighted by ``weight`` over the records that have both."""
    usable = [r for r in records if is_number(r, key) and is_number(r, weight)]
    total = sum(record[weight] for record in usable)
    return sum(r[key] * r[weight] for r in usable) / total if total > 0 else None


def _summarize_evaluations(evaluations: Sequence[Record]) -> dict[str, Any]:
    """Return the scores of the first set, and those of each set with a name under that."""
    names = sets_in(evaluations)
    first = names[0] if names else None
    summary = {"evaluation/set": first, **_scores_of(of_set(evaluations, first))}
    for name in names:
        if name is not None:
            scores = _scores_of(of_set(evaluations, name))
            prefix = f"evaluation/{name}/"
            summary |= {f"{prefix}{k.removeprefix('evaluation/')}": v for k, v in scores.items()}
    return summary


def _scores_of(evaluations: Sequence[Record]) -> dict[str, Any]:
    before = next((e for e in evaluations if e["when"] == "before"), None)
    after = next((e for e in reversed(evaluations) if e["when"] == "after"), None)
    during = [e for e in evaluations if e["when"] == "during"]
    best = max(during, key=lambda e: e["pass@1"]) if during else None
    chosen = {"before": before, "best_during": best, "after": after}
    summary: dict[str, Any] = {
        f"{score}/{moment}": None if record is None else record[score]
        for score in _SCORES
        for moment, record in chosen.items()
    }
    for score in _SCORES:
        error = f"{score}_stderr"
        is_there = after is not None and is_number(after, error)
        summary[f"{error}/after"] = after[error] if after is not None and is_there else None
    last = evaluations[-1] if evaluations else None
    return {
        **summary,
        "pass@1/best_during_version": None if best is None else sampled_version(best),
        "evaluation/k": None if last is None else last["k"],
        "evaluation/problems": None if last is None else last["problems"],
    }


def _summarize_training(steps: Sequence[Record]) -> dict[str, Any]:
    rewards = values_of(steps, "reward/total")
    # One batch is a noisy estimate; a tenth of the run at either end is a readable one.
    window = max(1, len(rewards) // 10)
    last: Record = steps[-1] if steps else {}
    last_step = last["step"] if steps else 0
    return {
        "steps": last_step,
        # Version 0, the policy that training starts from, is published too.
        "policy_versions": last_step + 1 if steps else 0,
        "reward/first": fmean(rewards[:window]) if rewards else None,
        "reward/last": fmean(rewards[-window:]) if rewards else None,
        "reward/window_steps": window if rewards else None,
        "rollout/completions": sum(values_of(steps, "rollout/completions")),
        "rollout/tokens": sum(values_of(steps, "rollout/tokens")),
        "rollout/spanning_fraction": weighted_mean(
            steps, "rollout/spanning_fraction", "rollout/trained_completions"
        ),
        "rollout/staleness_mean": weighted_mean(
            steps, "rollout/staleness_mean", "rollout/trained_tokens"
        ),
        "rollout/staleness_max": max(values_of(steps, "rollout/staleness_max"), default=None),
        "rollout/started_groups": sum(values_of(steps, "rollout/started_groups")),
        "rollout/dropped_groups": sum(values_of(steps, "rollout/dropped_groups")),
        "rollout/barren_groups": max(values_of(steps, "rollout/barren_groups"), default=None),
        "judge/errors": sum(values_of(steps, "judge/errors")),
        # Where problems stand at the end, in a run in which they leave and come back.
        **{key: value for key, value in last.items() if key.startswith("curriculum/")},
    }


def _summarize_throughput(steps: Sequence[Record]) -> dict[str, Any]:
    return {
        "generation/tokens_per_s": _median(values_of(steps, "generation/tokens_per_s")),
        "learner/tokens_per_s": _median(values_of(steps, "learner/tokens_per_s")),
        "generation/busy_fraction": weighted_mean(steps, "generation/busy_fraction", "time/step_s"),
        "packing/waste": weighted_mean(steps, "packing/waste", "packing/rows"),
        "time/step_s": _median(values_of(steps, "time/step_s")),
        "time/publish_s": _median(values_of(steps, "time/publish_s")),
        "time/pause_s": _median(values_of(steps, "time/pause_s")),
    }


def _summarize_sft(steps: Sequence[Record]) -> dict[str, Any]:
    losses = values_of(steps, "sft/loss")
    return {
        "sft/steps": steps[-1]["step"] if steps else 0,
        "sft/loss_first": losses[0] if losses else None,
        "sft/loss_last": losses[-1] if losses else None,
    }


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None
