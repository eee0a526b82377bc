"""Shares of the sources of a mixture: completions of their groups, and lines for people."""

from collections.abc import Sequence
from fractions import Fraction

from megatron_rl.config import RunConfig, SourceConfig
from megatron_rl.data.curriculum.mixture import Mixture


def group_size_of(config: RunConfig, source: SourceConfig) -> int:
    """Return the completions of each problem of a source."""
    return config.rollout.group_size if source.group_size is None else source.group_size


def mean_group_size(config: RunConfig) -> Fraction:
    """Return the completions of a group, over the sources as they are mixed."""
    sources = config.data.sources
    shares = Mixture([source.weight for source in sources]).shares
    sizes = [group_size_of(config, source) for source in sources]
    return sum((share * size for share, size in zip(shares, sizes, strict=True)), Fraction())


def mixture_lines(config: RunConfig, num_problems: Sequence[int] | None) -> list[str]:
    """Return what people read of a mixture, a line for each source; empty for a single path.

    Args:
        config: the run.
        num_problems: problems of each source, None where they are not counted.
    """
    if not config.data.is_mixture:
        return []
    sources = config.data.sources
    shares = Mixture([source.weight for source in sources]).shares
    counts = [""] * len(sources)
    if num_problems is not None:
        counts = [f", {count:,} problems" for count in num_problems]
    return [
        f"source {source.label}: {float(share):.1%} of the groups, "
        f"{group_size_of(config, source)} completions each{count}, from {source.path}"
        for source, share, count in zip(sources, shares, counts, strict=True)
    ]
