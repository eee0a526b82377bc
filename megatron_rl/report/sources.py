"""Numbers of the curriculum in a record of the metrics: standings, sources of a mixture. Pure."""

from collections.abc import Mapping

from megatron_rl.data.curriculum.standing import STANDINGS
from megatron_rl.report.summary import Record, is_number

SOURCE_PREFIX = "source/"
"""Start of the metrics that are of one source: source/NAME/METRIC."""


def by_source(record: Record) -> Mapping[str, Mapping[str, float]]:
    """Return the numbers of each source in a record of metrics.jsonl."""
    found: dict[str, dict[str, float]] = {}
    for key, value in record.items():
        if key.startswith(SOURCE_PREFIX):
            name, _, metric = key.removeprefix(SOURCE_PREFIX).rpartition("/")
            found.setdefault(name, {})[metric] = value
    return found


def source_lines(record: Record) -> list[str]:
    """Return lines for people: where problems stand, and what is sampled of each source."""
    counts = [
        f"{record[f'curriculum/{standing}']:,.0f} {standing}"
        for standing in STANDINGS
        if is_number(record, f"curriculum/{standing}")
    ]
    lines = [f"problems: {', '.join(counts)}"] if counts else []
    for name, of in by_source(record).items():
        sampled = "no group settled"
        if "reward" in of:
            sampled = (
                f"reward {of['reward']:.3f}, solved {of['correct']:.1%}, "
                f"{of['length_mean']:,.0f} tokens, {of['groups']:.0f} groups, "
                f"{of['dropped']:.0%} dropped"
            )
        standing = "".join(f", {of[s]:,.0f} {s}" for s in STANDINGS if s in of)
        lines.append(f"source {name}: {sampled}{standing}")
    return lines
