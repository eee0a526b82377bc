"""Rollout metrics of one batch, under the names that the report reads.

Rewards, correctness, lengths and truncation describe everything *sampled*: the groups of the batch
and those dropped since the previous batch because they teach nothing. On the kept groups alone, a
policy that solves half of its problems entirely would look as if it did not improve. Staleness
describes the tokens that are trained on.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from megatron_rl.sequences import SamplingSupport
from megatron_rl.types import Group


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Measurements of one judged completion, without its tokens."""

    reward: float
    parts: tuple[tuple[str, float], ...]
    is_correct: bool
    length: int
    is_truncated: bool
    source: str
    """Source of the problem in a mixture; empty without one."""


def outcomes_of(group: Group) -> list[Outcome]:
    """Return the measurements of every completion of a group."""
    return [
        Outcome(
            reward=sample.reward.total,
            parts=tuple(sample.reward.parts.items()),
            is_correct=sample.verdict.correct,
            length=len(sample.completion.token_ids),
            is_truncated=sample.completion.is_truncated,
            source=group.source,
        )
        for sample in group.samples
    ]


def outcome_metrics(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return means over completions of reward, its parts, correctness, length and truncation."""
    parts = [dict(outcome.parts) for outcome in outcomes]
    return {
        "reward/total": _mean(outcome.reward for outcome in outcomes),
        # Every reward has the same parts, those of a malformed response being 0.
        **{f"reward/{name}": _mean(part[name] for part in parts) for name in parts[0]},
        "rollout/correct": _mean(outcome.is_correct for outcome in outcomes),
        "rollout/length_mean": _mean(outcome.length for outcome in outcomes),
        "rollout/length_max": float(max(outcome.length for outcome in outcomes)),
        "rollout/truncated": _mean(outcome.is_truncated for outcome in outcomes),
    }


def staleness_metrics(groups: Sequence[Group], *, step: int) -> dict[str, float]:
    """Return how old the policies were that sampled the tokens trained on at version ``step``.

    Masked completions are counted apart; where all are, nothing is trained on and nothing is old.
    """
    samples = [sample for group in groups for sample in group.samples]
    versions = [s.completion.policy_versions for s in samples if not s.reward.is_masked]
    num_masked = len(samples) - len(versions)
    versions = versions or [(step,)]
    num_tokens = sum(map(len, versions))
    supports = [
        sample.completion.support
        for group in groups
        for sample in group.samples
        if sample.completion.support is not None
    ]
    return {
        "rollout/staleness_mean": step - sum(map(sum, versions)) / num_tokens,
        "rollout/staleness_max": float(step - min(map(min, versions))),
        "rollout/spanning_fraction": _mean(v[0] != v[-1] for v in versions),
        "rollout/trained_completions": float(len(samples) - num_masked),
        "rollout/trained_tokens": float(num_tokens if num_masked < len(samples) else 0),
        "rollout/masked_completions": float(num_masked),
        **({"rollout/choices_mean": _mean_choices(supports)} if supports else {}),
    }


def _mean_choices(supports: Sequence[SamplingSupport]) -> float:
    """Return how many tokens one was chosen from, under a truncated sampler."""
    num_tokens = sum(support.num_positions for support in supports)
    return sum(len(support.ids_K) for support in supports) / num_tokens


def _mean(values: Iterable[float]) -> float:
    numbers = [float(value) for value in values]
    return sum(numbers) / len(numbers)
