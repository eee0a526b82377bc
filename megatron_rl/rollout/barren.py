"""Barren stretches: groups dropped one after the other, without one to learn from between them.

Without a word, a run whose problems are all mastered, or all too hard, samples for ever.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from megatron_rl.errors import BarrenError
from megatron_rl.types import Group, Sample

Cause = Literal["all right", "all wrong", "all malformed", "all equal"]

_REMEDIES: Mapping[Cause, str] = {
    "all right": "the policy has mastered these problems: add harder ones to data.train, or let "
    "them join as solved ones leave ([data.lifecycle], data.reserve); or take the last checkpoint "
    "as the result and end the run with a smaller num_steps",
    "all wrong": "look whether the response deserves better than its reason says; if not, train on "
    "easier problems (tools/filter_difficulty.py finds those that are solved at times)",
    "all malformed": "the policy does not write the format: teach it in a cold start ([sft]), or "
    "ask for it (data.system_prompt)",
    "all equal": "right and wrong responses earn the same: see [reward] and "
    "rollout.drop_zero_advantage",
}
_CUT_OFF_REMEDY = "; raise generators.sampling.max_new_tokens, at which most were cut off"
_NO_REASON: Mapping[Cause, str] = {"all right": "the answer is right"}
_SHOWN, _REASON_SHOWN = 400, 200
_MAX_REASONS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class BarrenStretch:
    """Groups that were dropped in a row, up to some moment."""

    num_groups: int
    causes: Mapping[Cause, int]
    """Groups by why they teach nothing."""
    cause: Cause
    """The commonest of them."""
    reason: str
    """The commonest reason of a verdict, among groups of that cause."""
    problem: str
    """Id of a problem whose completions had that reason."""
    response: str
    """One response with that reason, without its middle when it is long."""
    cut_off: float
    """Share of completions that reached the length limit."""
    is_over: bool
    """Whether a group has been kept since."""

    def __str__(self) -> str:
        """Return one sentence for people."""
        counts = ", ".join(f"{count} {cause}" for cause, count in self.causes.items())
        return (
            f"{self.num_groups} groups in a row are dropped, since they teach nothing ({counts}; "
            f"{self.cut_off:.0%} of completions cut off); most often: {self.reason}; for example "
            f"{self.response!r} to problem {self.problem!r}"
        )

    @property
    def remedy(self) -> str:
        """What to do about the commonest cause."""
        is_cut_off = self.cut_off > 0.5 and self.cause != "all right"
        return _REMEDIES[self.cause] + (_CUT_OFF_REMEDY if is_cut_off else "")


class BarrenWatch:
    """Counts dropped groups in a row, and tells of them at a bounded pace."""

    def __init__(
        self,
        *,
        first_report: int,
        pace_s: float,
        limit: int | None,
        report: Callable[[BarrenStretch], None],
        clock: Callable[[], float],
    ) -> None:
        """Begin with no dropped group.

        Args:
            first_report: groups in a row of which the first report tells.
            pace_s: least time between two reports of a stretch.
            limit: groups in a row that end the run; None for no end.
            report: takes every report, and the end of a stretch that was reported.
            clock: seconds.
        """
        self._first_report = first_report
        self._pace_s = pace_s
        self._limit = limit
        self._report = report
        self._clock = clock
        self._reported_at: float | None = None
        self._forget()

    @property
    def num_groups(self) -> int:
        """Groups dropped since the last that was kept."""
        return sum(self._causes.values())

    def note_kept(self) -> None:
        """Note a group that is trained on: a stretch is over."""
        if self._was_reported:
            self._report(self._stretch(is_over=True))
        self._forget()

    def note_dropped(self, group: Group) -> None:
        """Note a group that teaches nothing; report the stretch when it is time.

        Raises:
            BarrenError: the stretch has reached its limit.
        """
        cause = cause_of(group)
        self._causes[cause] += 1
        for sample in group.samples:
            self._note_sample(cause, group.problem.id, sample)
        is_at_limit = self.num_groups == self._limit
        if is_at_limit or self._is_report_due():
            self._was_reported, self._reported_at = True, self._clock()
            self._report(self._stretch(is_over=False))
        if is_at_limit:
            stretch = self._stretch(is_over=False)
            raise BarrenError(
                f"{stretch}. That is the limit of rollout.max_barren_groups ({self._limit}). "
                f"What to do: {stretch.remedy}. To go on for ever set rollout.max_barren_groups = 0"
            )

    def _is_report_due(self) -> bool:
        is_ended = self._limit is not None and self.num_groups > self._limit
        if is_ended or self.num_groups < self._first_report:
            return False
        return self._reported_at is None or self._clock() - self._reported_at >= self._pace_s

    def _note_sample(self, cause: Cause, problem: str, sample: Sample) -> None:
        self._num_completions += 1
        self._num_cut_off += sample.completion.finish_reason == "length"
        reason = sample.verdict.reason or _NO_REASON.get(cause, "no reason is given")
        key = cause, reason[:_REASON_SHOWN]
        self._reasons[key] += 1
        self._examples[key] = problem, sample.text
        if len(self._reasons) > _MAX_REASONS:  # they may quote what the policy wrote
            self._reasons = Counter(dict(self._reasons.most_common(_MAX_REASONS // 2)))
            self._examples = {key: self._examples[key] for key in self._reasons}

    def _stretch(self, *, is_over: bool) -> BarrenStretch:
        cause = self._causes.most_common(1)[0][0]
        of_cause = [key for key in self._reasons if key[0] == cause]
        key = max(of_cause, key=lambda key: self._reasons[key])
        problem, response = self._examples[key]
        return BarrenStretch(
            num_groups=self.num_groups,
            causes=dict(self._causes.most_common()),
            cause=cause,
            reason=key[1],
            problem=problem,
            response=_without_middle(response),
            cut_off=self._num_cut_off / self._num_completions,
            is_over=is_over,
        )

    def _forget(self) -> None:
        self._causes: Counter[Cause] = Counter()
        self._reasons: Counter[tuple[Cause, str]] = Counter()
        self._examples: dict[tuple[Cause, str], tuple[str, str]] = {}
        self._num_completions = self._num_cut_off = 0
        self._was_reported = False


def cause_of(group: Group) -> Cause:
    """Return why a dropped group teaches nothing."""
    verdicts = [sample.verdict for sample in group.samples]
    if all(verdict.correct for verdict in verdicts):
        return "all right"
    if not any(verdict.format_ok for verdict in verdicts):
        return "all malformed"
    return "all equal" if any(verdict.correct for verdict in verdicts) else "all wrong"


def _without_middle(text: str) -> str:
    half = _SHOWN // 2
    return text if len(text) <= _SHOWN else f"{text[:half]} ... {text[-half:]}"
