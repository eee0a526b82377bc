"""Numbers of each source of a mixture, in a record of the metrics. Pure."""

from collections.abc import Mapping

from megatron_rl.report.summary import Record

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
    """Return a line for people on each source of a record."""
    return [
        f"source {name}: reward {of['reward']:.3f}, solved {of['correct']:.1%}, "
        f"{of['length_mean']:,.0f} tokens, {of['groups']:.0f} groups, {of['dropped']:.0%} dropped"
        for name, of in by_source(record).items()
    ]
