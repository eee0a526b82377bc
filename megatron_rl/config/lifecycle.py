"""Lifecycle of problems: when they leave the curriculum and come back, by their own outcomes."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from megatron_rl.config.base import Fraction, NonNegative, Positive, Section

PositiveFraction = Annotated[float, Field(gt=0, le=1)]


class LifecycleConfig(Section):
    """Problems that leave the curriculum and come back. The pass rate of a visit is the share of a
    group's completions that are right; dropped groups count as well."""

    retire_above: PositiveFraction = 1.0
    """Pass rate from which on a problem is solved at a visit."""
    retire_visits: NonNegative = 2
    """Visits in a row at which a problem was solved, after which it leaves for good; 0 for never.
    """
    defer_below: Fraction = 0.0
    """Pass rate down from which a problem is unsolved at a visit."""
    defer_visits: NonNegative = 2
    """Visits in a row at which a problem was unsolved, after which it is set aside; 0 for never."""
    defer_passes: Positive = 2
    """Whole passes over the other problems of its source for which it is set aside."""
    reserve_above: PositiveFraction = 0.75
    """Mean running pass rate of a source's problems, without those in reserve, from which on some
    of its reserve join. The running rate of a problem is the mean of that before and that of the
    visit."""
    reserve_join: Positive = 64
    """Problems of the reserve that join at once, in their order. So many problems must have been
    visited before, or all of them."""


def lifecycle_rules(lifecycle: LifecycleConfig | None, reserves: dict[str, bool]) -> Iterator[str]:
    """Yield the rules that a lifecycle breaks.

    Args:
        lifecycle: the section.
        reserves: whether there is a reserve, by the key that names it.
    """
    if lifecycle is None:
        for key, is_given in reserves.items():
            if is_given:
                yield (
                    f"{key} needs [data.lifecycle], which says when its problems join; add the "
                    "section (it may be empty), or remove the key"
                )
        return
    if lifecycle.defer_below >= lifecycle.retire_above:
        yield (
            f"data.lifecycle.defer_below ({lifecycle.defer_below}) must be < "
            f"data.lifecycle.retire_above ({lifecycle.retire_above}), or a visit is both"
        )
