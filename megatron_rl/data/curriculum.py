"""Curriculum: the problem of a group, a pure function of its index, so resuming needs no state."""

import array
import functools
import random


def problem_at(index: int, *, num_problems: int, seed: int, shuffle: bool) -> int:
    """Return the position of the problem that group ``index`` works on.

    Every pass over the problems visits each once; with ``shuffle`` in an order of its own drawn
    from (seed, pass), else in the order of the file.
    """
    assert index >= 0 and num_problems > 0, (index, num_problems)
    number_of_pass, position = divmod(index, num_problems)
    if not shuffle:
        return position
    return _order(num_problems, seed, number_of_pass)[position]


# Two passes are cached: at the end of a pass, groups of the old and the new one alternate.
@functools.lru_cache(maxsize=2)
def _order(num_problems: int, seed: int, number_of_pass: int) -> "array.array[int]":
    order = list(range(num_problems))
    random.Random(f"{seed}/{number_of_pass}").shuffle(order)
    # A million Python numbers would take a quarter of a second to forget, and 36 MB.
    return array.array("q", order)
