"""Standing of the problems of a source: active, solved, deferred or in reserve. Pure.

What becomes of a problem depends on the outcomes of its own groups, and on the passes over its
source. Settled outcomes and the number of visits are the whole state: the same outcomes at the same
visits lead to the same standing.

Shape letter: P = problems of the source, those of the reserve last.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from megatron_rl.data.curriculum.passes import PassOrder

Standing = Literal["active", "solved", "deferred", "reserve"]
STANDINGS: tuple[Standing, ...] = ("active", "solved", "deferred", "reserve")
_ACTIVE, _SOLVED, _DEFERRED, _RESERVE = range(4)
_CHUNK = 4096
_ONE = 2**20
_UNKNOWN = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class LifecycleRules:
    """When problems leave and come back; see ``config.lifecycle``."""

    retire_above: float
    retire_visits: int
    defer_below: float
    defer_visits: int
    defer_passes: int
    reserve_above: float
    reserve_join: int


class SourceStanding:
    """Problems of one source: where each stands, and which is visited next."""

    def __init__(self, order: PassOrder, *, num_reserve: int, rules: LifecycleRules) -> None:
        """Begin with all problems active but the last ``num_reserve``, in the order given."""
        num = order.num_problems
        self._order = order
        self._rules = rules
        self._first_reserve = self._next_reserve = num - num_reserve
        self._standing_P = np.zeros(num, dtype=np.uint8)
        self._standing_P[self._first_reserve :] = _RESERVE
        # Visits in a row that were solved, or (negative) that were not.
        self._streak_P = np.zeros(num, dtype=np.int32)
        # Running pass rates are whole numbers, so that their sum does not depend on an order.
        self._rate_P = np.full(num, _UNKNOWN, dtype=np.int32)
        self._return_pass_P = np.zeros(num, dtype=np.int32)
        self._rate_sum = self._num_known = 0
        self._num_visits = 0
        self._entered_pass = 0
        self._tally()

    @property
    def num_visits(self) -> int:
        """Visits so far, those of problems that were passed over included."""
        return self._num_visits

    @property
    def is_exhausted(self) -> bool:
        """Whether no problem is left, now or later."""
        return self._counts[_ACTIVE] + self._counts[_DEFERRED] == 0

    @property
    def num_known(self) -> int:
        """Problems, none of them in reserve, whose running pass rate is known.

        One that has come out of the reserve was too hard, and counts as unsolved until visited.
        """
        return self._num_known

    @property
    def pass_rate_sum(self) -> float:
        """Sum of the known running pass rates."""
        return self._rate_sum / _ONE

    def count(self, standing: Standing) -> int:
        """Return the number of problems of a standing."""
        return self._counts[STANDINGS.index(standing)]

    def next(self) -> int:
        """Return the position of the problem to visit now; one must be left."""
        num = self._order.num_problems
        while True:
            number, place = divmod(self._num_visits, num)
            self._enter(number)
            skipped = self._inactive_before_next(number, place)
            if skipped is not None:
                self._num_visits += skipped + 1
                return self._order.at(self._num_visits - 1)
            self._num_visits = num * self._next_pass_with_any(number)

    def go_to(self, num_visits: int) -> None:
        """Go on after ``num_visits`` visits, which were recorded."""
        self._num_visits = num_visits
        if num_visits:
            self._enter((num_visits - 1) // self._order.num_problems)

    def settle(self, position: int, pass_rate: float) -> None:
        """Take the outcome of a group of the problem at ``position``.

        Groups may still run when their problem leaves; they change its running rate alone.
        """
        visit, before = round(pass_rate * _ONE), int(self._rate_P[position])
        rate = visit if before == _UNKNOWN else (before + visit) // 2
        self._rate_P[position] = rate
        self._rate_sum += rate - max(before, 0)
        self._num_known += before == _UNKNOWN and position < self._first_reserve
        if self._standing_P[position] == _ACTIVE:
            self._note_visit(position, pass_rate)

    def call_reserve(self) -> int:
        """Let problems of the reserve join when the others are solved; return how many."""
        num = min(self._rules.reserve_join, self._order.num_problems - self._next_reserve)
        if num == 0 or not self._is_reserve_due():
            return 0
        self._standing_P[self._next_reserve : self._next_reserve + num] = _ACTIVE
        self._next_reserve += num
        self._num_known += num
        self._tally()
        return num

    def _note_visit(self, position: int, pass_rate: float) -> None:
        rules, streak = self._rules, int(self._streak_P[position])
        if pass_rate >= rules.retire_above:
            streak = max(streak, 0) + 1
        elif pass_rate <= rules.defer_below:
            streak = min(streak, 0) - 1
        else:
            streak = 0
        self._streak_P[position] = streak
        if 0 < rules.retire_visits <= streak:
            self._leave(position, _SOLVED)
        elif 0 < rules.defer_visits <= -streak:
            self._leave(position, _DEFERRED)
            self._return_pass_P[position] = self._entered_pass + 1 + rules.defer_passes

    def _leave(self, position: int, standing: int) -> None:
        self._standing_P[position] = standing
        self._streak_P[position] = 0
        self._counts[_ACTIVE] -= 1
        self._counts[standing] += 1

    def _is_reserve_due(self) -> bool:
        if self._counts[_ACTIVE] == 0:
            return True
        if self._num_known < min(self._rules.reserve_join, self._next_reserve):
            return False
        return self.pass_rate_sum >= self._rules.reserve_above * self._num_known

    def _enter(self, number_of_pass: int) -> None:
        """Begin a pass, once: problems that were deferred until then are active again."""
        if number_of_pass <= self._entered_pass:
            return
        self._entered_pass = number_of_pass
        if self._counts[_DEFERRED]:
            is_back_P = (self._standing_P == _DEFERRED) & (self._return_pass_P <= number_of_pass)
            self._standing_P[is_back_P] = _ACTIVE
            self._tally()

    def _inactive_before_next(self, number: int, place: int) -> int | None:
        """Return how many problems of the pass are passed over before an active one."""
        order = self._order.of_pass(number)
        for start in range(place, len(order), _CHUNK):
            is_active = self._standing_P[order[start : start + _CHUNK]] == _ACTIVE
            if is_active.any():
                return start - place + int(np.argmax(is_active))
        return None

    def _next_pass_with_any(self, number: int) -> int:
        if self._counts[_ACTIVE]:
            return number + 1
        return max(number + 1, int(self._return_pass_P[self._standing_P == _DEFERRED].min()))

    def _tally(self) -> None:
        """Count anew, after many problems have changed their standing."""
        self._counts = np.bincount(self._standing_P, minlength=len(STANDINGS)).tolist()
