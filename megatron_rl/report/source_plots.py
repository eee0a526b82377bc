"""Plots of a mixture: a curve for each source. Pure."""

from collections.abc import Sequence

from megatron_rl.report.figures import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    RED,
    TEAL,
    Line,
    LinePlot,
)
from megatron_rl.report.sources import SOURCE_PREFIX, by_source
from megatron_rl.report.summary import Record

_COLORS = (BLUE, AMBER, GREEN, RED, PURPLE, TEAL, GREY)
_DASHES = ("solid", "dot", "dash")
_PLOTS = (
    ("reward", "Reward by source", "mean of everything sampled", ""),
    ("correct", "Solved by source", "share of everything sampled that is right", ".0%"),
    ("length_mean", "Length by source", "tokens per completion", ","),
    ("dropped", "Dropped by source", "share of groups that teach nothing", ".0%"),
    ("trained_share", "Trained on by source", "share of the tokens of the batch", ".0%"),
)


def source_plots(steps: Sequence[Record]) -> list[LinePlot]:
    """Return what to draw of the sources in the records; nothing without a mixture."""
    names = sorted({name for record in steps for name in by_source(record)})
    if not names:
        return []
    return [
        LinePlot(
            key=f"source_{metric}",
            title=title,
            caption=caption,
            lines=tuple(
                Line(
                    metric=f"{SOURCE_PREFIX}{name}/{metric}",
                    label=name,
                    color=_COLORS[place % len(_COLORS)],
                    dash=_DASHES[place // len(_COLORS) % len(_DASHES)],
                )
                for place, name in enumerate(names)
            ),
            tick_format=tick_format,
        )
        for metric, title, caption, tick_format in _PLOTS
    ]
