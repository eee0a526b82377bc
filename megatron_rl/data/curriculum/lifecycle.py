"""Curriculum that follows the model: problems leave and come back by the outcomes of their groups.

Time is cut at *borders*: where a batch is taken, or as many groups were dropped as a batch has.
Between two borders the problem of every new group is a function of the state at the first one, so
it does not matter in which order groups finish. A :class:`BorderRecord` has what changed at a
border; the records of a run, in order, give the state, and so the problems of the groups to come.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from megatron_rl.data.curriculum.mixture import Mixture
from megatron_rl.data.curriculum.passes import PassOrder, order_seed
from megatron_rl.data.curriculum.source import CurriculumSource
from megatron_rl.data.curriculum.standing import STANDINGS, LifecycleRules, SourceStanding
from megatron_rl.types import Assignment, Cursor, GroupOutcome


class SourceKey(NamedTuple):
    """Name of a source, and key of one of its problems."""

    source: str
    key: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BorderRecord:
    """What is recorded at a border."""

    cursor: Cursor
    visits: Mapping[str, int]
    """Visits of each source so far, see ``SourceStanding``."""
    settled: Sequence[tuple[GroupOutcome, SourceKey]]
    """Outcome and problem of each settled group, by index."""
    outstanding: Sequence[SourceKey | None]
    """Problem of each outstanding group of the cursor, in its order; None for a group that has
    none yet, as those of a run that had no lifecycle before."""


class LifecycleCurriculum:
    """Problems of one source or of a mixture, of which only active ones are given out."""

    def __init__(
        self,
        sources: Sequence[CurriculumSource],
        *,
        seed: int,
        shuffle: bool,
        rules: LifecycleRules,
    ) -> None:
        """Begin with every problem that is not in reserve active."""
        self._sources = sources
        self._keys = [_Keys(source) for source in sources]
        self._place_of = {source.name: place for place, source in enumerate(sources)}
        self._standings = [
            SourceStanding(
                PassOrder(
                    len(source.problems), seed=order_seed(source.name, seed), shuffle=shuffle
                ),
                num_reserve=source.num_reserve,
                rules=rules,
            )
            for source in sources
        ]
        self._open: dict[int, tuple[int, int]] = {}
        self._records: list[BorderRecord] = []
        self._live: list[int] = []
        self._mix_from(0)

    def restore(self, records: Iterable[BorderRecord]) -> None:
        """Go on after recorded borders, oldest first; call it once, before any assignment."""
        last = None
        for record in records:
            for name, visits in record.visits.items():
                if name in self._place_of:
                    self._standings[self._place_of[name]].go_to(visits)
            for outcome, problem in record.settled:
                found = self._find(problem)
                if found is not None:
                    place, position = found
                    self._standings[place].settle(position, outcome.pass_rate)
            self._turn(record.cursor.next_index)
            last = record
        if last is not None:
            for index, given in zip(last.cursor.outstanding, last.outstanding, strict=True):
                found = None if given is None else self._find(given)
                if found is not None:
                    self._open[index] = found

    def assignment(self, index: int) -> Assignment | None:
        """Return what the group of an index works on, None when every problem is solved."""
        if index not in self._open:
            if not self._live:
                return None
            place = self._live[self._mixture.place(index - self._mixed_from)[0]]
            self._open[index] = place, self._standings[place].next()
        place, position = self._open[index]
        return self._sources[place].assignment(position)

    def settle(self, outcomes: Sequence[GroupOutcome], cursor: Cursor) -> None:
        """Take the outcomes of a border, which decide what is given out from ``cursor`` on."""
        settled = []
        visits = self._visits()
        for outcome in sorted(outcomes, key=lambda outcome: outcome.index):
            place, position = self._open[outcome.index]
            self._standings[place].settle(position, outcome.pass_rate)
            settled.append((outcome, self._key(place, position)))
        self._turn(cursor.next_index)
        self._open = {i: self._open[i] for i in cursor.outstanding if i in self._open}
        given = [self._open.get(index) for index in cursor.outstanding]
        self._records.append(
            BorderRecord(
                cursor=cursor,
                visits=visits,
                settled=settled,
                outstanding=[None if pair is None else self._key(*pair) for pair in given],
            )
        )

    def take_records(self) -> list[BorderRecord]:
        """Return the borders since the last call; the last of them is the present state."""
        records, self._records = self._records, []
        return records

    def metrics(self) -> dict[str, float]:
        """Return how many problems stand where, and how well they are solved."""
        counts = [
            {standing: standings.count(standing) for standing in STANDINGS}
            for standings in self._standings
        ]
        metrics = {
            f"curriculum/{standing}": float(sum(count[standing] for count in counts))
            for standing in STANDINGS
        }
        num_known = sum(standings.num_known for standings in self._standings)
        if num_known:
            rate_sum = sum(standings.pass_rate_sum for standings in self._standings)
            metrics["curriculum/pass_rate"] = rate_sum / num_known
        for source, count in zip(self._sources, counts, strict=True):
            if source.name:
                metrics |= {f"source/{source.name}/{name}": float(n) for name, n in count.items()}
        return metrics

    def _visits(self) -> dict[str, int]:
        return {
            source.name: standing.num_visits
            for source, standing in zip(self._sources, self._standings, strict=True)
        }

    def _turn(self, next_index: int) -> None:
        """Call reserves at a border; sources without a problem leave their turns to the others."""
        for standing in self._standings:
            standing.call_reserve()
        self._mix_from(next_index)

    def _mix_from(self, index: int) -> None:
        live = [i for i, standing in enumerate(self._standings) if not standing.is_exhausted]
        if live != self._live:
            self._live, self._mixed_from = live, index
            if live:
                self._mixture = Mixture([self._sources[place].weight for place in live])

    def _key(self, place: int, position: int) -> SourceKey:
        source = self._sources[place]
        return SourceKey(source.name, int(source.keys_P[position]))

    def _find(self, problem: SourceKey) -> tuple[int, int] | None:
        """Return place and position of a recorded problem, None if it is not there any more."""
        place = self._place_of.get(problem.source)
        position = None if place is None else self._keys[place].position(problem.key)
        return None if place is None or position is None else (place, position)


class _Keys:
    """Positions of problems by their keys; a dictionary of a million would be ten times larger."""

    def __init__(self, source: CurriculumSource) -> None:
        self._order_P = np.argsort(source.keys_P, kind="stable")
        self._sorted_P = source.keys_P[self._order_P]

    def position(self, key: int) -> int | None:
        place = int(np.searchsorted(self._sorted_P, np.uint64(key)))
        if place == len(self._sorted_P) or int(self._sorted_P[place]) != key:
            return None
        return int(self._order_P[place])
