"""Downsampling of long curves: few points of many, with every extreme kept. Pure."""

from collections.abc import Sequence

import numpy as np

MAX_POINTS = 1000
"""A plot is about as many pixels wide; more points would only cost time."""


def kept_indices(steps: Sequence[int], values: Sequence[float]) -> Sequence[int]:
    """Return which points of a curve to draw: all of them, or lowest and highest of each bucket.

    First and last point always stay. Buckets lie on multiples of a power of two, so that a growing
    curve changes at its end only, until it is twice as long.

    Args:
        steps: growing, one per value.
        values: finite.
    """
    if len(values) <= MAX_POINTS:
        return range(len(values))
    buckets = np.asarray(steps) // _bucket_width(steps[-1] - steps[0] + 1)
    starts = np.flatnonzero(np.diff(buckets, prepend=buckets[0] - 1))
    ends = np.append(starts[1:], len(values))
    array = np.asarray(values)
    kept = {0, len(values) - 1}
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        kept.add(start + int(array[start:end].argmin()))
        kept.add(start + int(array[start:end].argmax()))
    return sorted(kept)


def _bucket_width(span: int) -> int:
    width = 1
    # Two points a bucket; one bucket more, since the first need not begin at a multiple, and ends.
    while 2 * (span // width + 2) + 2 > MAX_POINTS:
        width *= 2
    return width
