"""Mixture of sources: which one each group takes its problem from, a pure function of its index.

At any prefix of the groups, the groups of every source are within one of its exact share. Picking
whichever source is furthest behind (smooth weighted round-robin) does not keep that for four
sources and more; earliest deadline first does (Baruah et al., Proportionate progress, 1996). The
j-th group of a source of share s, from 0, has its turn from floor(j / s) on and must have come
before ceil((j + 1) / s). Of those whose turn has come, the one that must come first does.
"""

import array
import math
from collections.abc import Sequence
from fractions import Fraction


class Mixture:
    """Order of sources in the ratio of their weights. It repeats, and is found as far as asked."""

    def __init__(self, weights: Sequence[float]) -> None:
        """Mix sources of these weights, which are taken as the decimal numbers that they print as.

        The weights are positive; equal ones take turns in their order.
        """
        assert weights and min(weights) > 0, weights
        exact = [Fraction(str(weight)) for weight in weights]
        common = math.lcm(*(weight.denominator for weight in exact))
        whole = [int(weight * common) for weight in exact]
        divisor = math.gcd(*whole)
        self._weights = [weight // divisor for weight in whole]
        self._period = sum(self._weights)
        self._counts = [0] * len(whole)
        # A million groups take 10 MB, and a period of few digits is much shorter.
        self._sources = array.array("H")
        self._before = array.array("q")

    @property
    def shares(self) -> list[Fraction]:
        """Exact share of each source."""
        return [Fraction(weight, self._period) for weight in self._weights]

    def place(self, index: int) -> tuple[int, int]:
        """Return the source of group ``index``, and how many groups of it come before."""
        number_of_period, slot = divmod(index, self._period)
        while len(self._sources) <= slot:
            self._extend()
        source = self._sources[slot]
        return source, number_of_period * self._weights[source] + self._before[slot]

    def _extend(self) -> None:
        slot, period = len(self._sources), self._period
        turns = [
            (-((count + 1) * period // -weight), count * period // weight, source)
            for source, (count, weight) in enumerate(zip(self._counts, self._weights, strict=True))
        ]
        *_, source = min(turn for turn in turns if turn[1] <= slot)
        self._sources.append(source)
        self._before.append(self._counts[source])
        self._counts[source] += 1
