"""Metrics of each source of a mixture: what is sampled of it, and how much of that is trained on.

A source that is nearly solved, or nearly unsolved, loses most of its groups to the zero-advantage
filter, so that its share of what is trained on falls below its weight.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

from megatron_rl.rollout.rollout_metrics import Outcome
from megatron_rl.types import Group


def source_metrics(
    groups: Sequence[Group], outcomes: Sequence[Outcome], *, dropped_groups: Mapping[str, int]
) -> dict[str, float]:
    """Return ``source/NAME/*`` of every source that is named; none without a mixture.

    Args:
        groups: the groups of the batch.
        outcomes: every completion of these groups, and of those dropped since the last batch.
        dropped_groups: how many of each source these were.
    """
    named = sorted({outcome.source for outcome in outcomes if outcome.source})
    all_tokens = sum(_num_trained_tokens(group) for group in groups)
    metrics: dict[str, float] = {}
    for name in named:
        kept = [group for group in groups if group.source == name]
        of_source = [outcome for outcome in outcomes if outcome.source == name]
        num_dropped = dropped_groups.get(name, 0)
        num_tokens = sum(_num_trained_tokens(group) for group in kept)
        metrics |= {
            f"source/{name}/reward": fmean(outcome.reward for outcome in of_source),
            f"source/{name}/correct": fmean(outcome.is_correct for outcome in of_source),
            f"source/{name}/length_mean": fmean(outcome.length for outcome in of_source),
            f"source/{name}/truncated": fmean(outcome.is_truncated for outcome in of_source),
            f"source/{name}/groups": float(len(kept) + num_dropped),
            f"source/{name}/dropped": num_dropped / (len(kept) + num_dropped),
            f"source/{name}/trained_share": num_tokens / all_tokens if all_tokens else 0.0,
        }
    return metrics


def _num_trained_tokens(group: Group) -> int:
    return sum(
        len(sample.completion.token_ids) for sample in group.samples if not sample.reward.is_masked
    )
