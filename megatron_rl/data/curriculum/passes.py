"""Passes over the problems of a source: each visits every problem once, in an order of its own."""

import random

import numpy as np
from numpy.typing import NDArray

_CACHED_PASSES = 2


class PassOrder:
    """Order in which problems are visited: every pass over them visits each once."""

    def __init__(self, num_problems: int, *, seed: int | str, shuffle: bool) -> None:
        """Visit ``num_problems``, with ``shuffle`` in an order that each pass draws from (seed,
        pass), else in the order of the file."""
        assert num_problems > 0, num_problems
        self.num_problems = num_problems
        self._seed = seed
        self._shuffle = shuffle
        # At the end of a pass, groups of the old and the new one alternate.
        self._passes: dict[int, NDArray[np.int64]] = {}

    def at(self, visit: int) -> int:
        """Return the position of the problem of visit ``visit``, from 0 over all passes."""
        assert visit >= 0, visit
        number, place = divmod(visit, self.num_problems)
        return int(self.of_pass(number)[place]) if self._shuffle else place

    def of_pass(self, number: int) -> NDArray[np.int64]:
        """Return the positions of the problems in the order of a pass."""
        if number not in self._passes:
            if len(self._passes) == _CACHED_PASSES:
                del self._passes[next(iter(self._passes))]
            self._passes[number] = self._drawn(number)
        return self._passes[number]

    def _drawn(self, number: int) -> NDArray[np.int64]:
        order = list(range(self.num_problems))
        if self._shuffle:
            random.Random(f"{self._seed}/{number}").shuffle(order)
        return np.array(order, dtype=np.int64)


def order_seed(name: str, seed: int) -> int | str:
    """Return the seed of the order of a source, which other sources do not change."""
    return f"{seed}/{name}" if name else seed
