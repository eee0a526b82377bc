"""Curriculum by index: a group's problem is a pure function of its index, so resuming needs no
state."""

from collections.abc import Sequence

from megatron_rl.data.curriculum.mixture import Mixture
from megatron_rl.data.curriculum.passes import PassOrder, order_seed
from megatron_rl.data.curriculum.source import CurriculumSource
from megatron_rl.types import Assignment, Cursor, GroupOutcome


class IndexCurriculum:
    """Problems of one source or of a mixture, in the order of groups, whatever comes of them."""

    def __init__(self, sources: Sequence[CurriculumSource], *, seed: int, shuffle: bool) -> None:
        """Give out the problems of ``sources``; see :class:`PassOrder` for the others."""
        self._sources = sources
        self._mixture = Mixture([source.weight for source in sources])
        self._orders = [
            PassOrder(source.num_given, seed=order_seed(source.name, seed), shuffle=shuffle)
            for source in sources
        ]

    def assignment(self, index: int) -> Assignment:
        """Return what the group of an index works on."""
        source, visit = self._mixture.place(index)
        return self._sources[source].assignment(self._orders[source].at(visit))

    def settle(self, outcomes: Sequence[GroupOutcome], cursor: Cursor) -> None:
        """Take note of nothing."""
