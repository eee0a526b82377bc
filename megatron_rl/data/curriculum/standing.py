"""Standing of the problems of a source: active, solved, deferred or in reserve. Pure.

What becomes of a problem depends on the outcomes of its own groups, and on the passes over its
source. Settled outcomes and the number of visits are the whole state: the same outcomes at the same
visits lead to the same standing.

Shape letter: P = problems of the source, those of the reserve last.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from megatron_rl.data.curriculum.passes import PassOrder

Standing = Literal["active", "solved", "deferred", "reserve"]
STANDINGS: tuple[Standing, ...] = ("active", "solved", "deferred", "reserve")
_ACTIVE, _SOLVED, _DEFERRED, _RESERVE = range(4)
_CHUNK = 4096


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
        self._first_reserve = num - num_reserve
        self._standing_P = np.zeros(num, dtype=np.uint8)
        self._standing_P[self._first_reserve :] = _RESERVE
        # Visits in a row that were solved, or (negative) that were not.
        self._streak_P = np.zeros(num, dtype=np.int16)
        self._rate_P = np.full(num, np.nan, dtype=np.float32)
        self._return_pass_P = np.zeros(num, dtype=np.int32)
        self._num_visits = 0
        self._entered_pass = 0

    @property
    def num_visits(self) -> int:
        """Visits so far, those of problems that were passed over included."""
        return self._num_visits

    @property
    def is_exhausted(self) -> bool:
        """Whether no problem is left, now or later."""
        return self.count("active") + self.count("deferred") == 0

    def count(self, standing: Standing) -> int:
        """Return the number of problems of a standing."""
        return int(np.count_nonzero(self._standing_P == STANDINGS.index(standing)))

    def rates(self) -> NDArray[np.float32]:
        """Return the running pass rates of active problems that are known.

        One that has come out of the reserve was too hard, and counts as unsolved until visited.
        """
        rates_P = self._rate_P.copy()
        reserve = rates_P[self._first_reserve :]
        reserve[np.isnan(reserve)] = 0
        return rates_P[(self._standing_P == _ACTIVE) & ~np.isnan(rates_P)]

    def next(self) -> int:
        """Return the position of the problem to visit now; one must be left."""
        num = self._order.num_problems
        while True:
            number, place = divmod(self._num_visits, num)
            if number > self._entered_pass:
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
        before = self._rate_P[position]
        self._rate_P[position] = pass_rate if np.isnan(before) else (before + pass_rate) / 2
        if self._standing_P[position] != _ACTIVE:
            return
        rules, streak = self._rules, int(self._streak_P[position])
        if pass_rate >= rules.retire_above:
            streak = max(streak, 0) + 1
        elif pass_rate <= rules.defer_below:
            streak = min(streak, 0) - 1
        else:
            streak = 0
        if 0 < rules.retire_visits <= streak:
            self._standing_P[position], streak = _SOLVED, 0
        elif 0 < rules.defer_visits <= -streak:
            self._standing_P[position], streak = _DEFERRED, 0
            self._return_pass_P[position] = self._entered_pass + 1 + rules.defer_passes
        limit = np.iinfo(np.int16).max
        self._streak_P[position] = min(max(streak, -limit), limit)

    def call_reserve(self) -> int:
        """Let problems of the reserve join when the active ones are solved; return how many."""
        if self._standing_P[-1] != _RESERVE or not self._is_reserve_due():
            return 0
        in_reserve = np.flatnonzero(self._standing_P == _RESERVE)
        joining = in_reserve[: self._rules.reserve_join]
        self._standing_P[joining] = _ACTIVE
        return len(joining)

    def _is_reserve_due(self) -> bool:
        num_active = self.count("active")
        if num_active == 0:
            return True
        rates = self.rates()
        if len(rates) < min(self._rules.reserve_join, num_active):
            return False
        return float(rates.mean(dtype=np.float64)) >= self._rules.reserve_above

    def _enter(self, number_of_pass: int) -> None:
        """Begin a pass: problems that were deferred until then are active again."""
        self._entered_pass = number_of_pass
        is_back_P = (self._standing_P == _DEFERRED) & (self._return_pass_P <= number_of_pass)
        self._standing_P[is_back_P] = _ACTIVE

    def _inactive_before_next(self, number: int, place: int) -> int | None:
        """Return how many problems of the pass are passed over before an active one."""
        order = self._order.of_pass(number)
        for start in range(place, len(order), _CHUNK):
            is_active = self._standing_P[order[start : start + _CHUNK]] == _ACTIVE
            if is_active.any():
                return start - place + int(np.argmax(is_active))
        return None

    def _next_pass_with_any(self, number: int) -> int:
        if self.count("active"):
            return number + 1
        return max(number + 1, int(self._return_pass_P[self._standing_P == _DEFERRED].min()))
