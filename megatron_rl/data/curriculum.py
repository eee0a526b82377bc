"""Curriculum: the problem of a group, a pure function of its index, so resuming needs no state."""

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_rl.data.mixture import Mixture
from megatron_rl.types import Assignment, Problem

_CACHED_PASSES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class CurriculumSource:
    """Problems that groups are given, and how often."""

    name: str
    """Name in a mixture; empty where the problems are the only ones."""
    problems: Sequence[Problem]
    prompts: Sequence[tuple[int, ...]]
    """Prompt token ids of each problem."""
    weight: float
    """Share of the groups, relative to the weights of other sources."""
    group_size: int
    """Completions of each problem."""

    def assignment(self, position: int) -> Assignment:
        """Return what a group does that is given the problem at ``position``.

        Sources may have problems of one id, such as their number, so names tell them apart.
        """
        problem = self.problems[position]
        if self.name:
            problem = dataclasses.replace(problem, id=f"{self.name}/{problem.id}")
        return Assignment(
            problem=problem,
            prompt_ids=self.prompts[position],
            group_size=self.group_size,
            source=self.name,
        )


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


class Curriculum:
    """Problems of one source or of a mixture, in the order of groups."""

    def __init__(self, sources: Sequence[CurriculumSource], *, seed: int, shuffle: bool) -> None:
        """Give out the problems of ``sources``; see :class:`PassOrder` for the others."""
        self._sources = sources
        self._mixture = Mixture([source.weight for source in sources])
        self._orders = [
            PassOrder(len(source.problems), seed=order_seed(source.name, seed), shuffle=shuffle)
            for source in sources
        ]

    def assignment(self, index: int) -> Assignment:
        """Return what the group of an index works on."""
        source, visit = self._mixture.place(index)
        return self._sources[source].assignment(self._orders[source].at(visit))


def order_seed(name: str, seed: int) -> int | str:
    """Return the seed of a source's order, which other sources do not change."""
    return f"{seed}/{name}" if name else seed
