"""Throughput metrics of generators and judge, between two batches."""

from collections.abc import Callable
from dataclasses import dataclass

from megatron_rl.generation.router_stats import RouterSnapshot
from megatron_rl.judge.judge import JudgeStats


@dataclass(frozen=True, kw_only=True, slots=True)
class Counters:
    """Counters at one moment."""

    time_s: float
    router: RouterSnapshot
    judge: JudgeStats


class ThroughputMetrics:
    """Turns counters into the metrics of a batch."""

    def __init__(
        self,
        router: Callable[[], RouterSnapshot],
        judge: Callable[[], JudgeStats],
        *,
        clock: Callable[[], float],
    ) -> None:
        """Read the counters for the first time."""
        self._router = router
        self._judge = judge
        self._clock = clock
        self._last = self._read()

    def metrics(self) -> dict[str, float]:
        """Return the metrics since the previous call."""
        before, self._last = self._last, self._read()
        return metrics_between(before, self._last)

    def _read(self) -> Counters:
        return Counters(time_s=self._clock(), router=self._router(), judge=self._judge())


def metrics_between(before: Counters, after: Counters) -> dict[str, float]:
    """Return rates and counts between two readings; ``in_flight`` and ``queue`` are of now.

    Tokens count when their completion is whole. ``latency_s`` is execution alone; the percentiles,
    of the newest verdicts, are what a completion waited for its verdict.
    """
    wall_s = max(after.time_s - before.time_s, 1e-9)
    judged = after.judge.judged - before.judge.judged
    judging_s = _execution_s(after.judge) - _execution_s(before.judge)
    tokens = after.router.generated_tokens - before.router.generated_tokens
    return {
        "generation/tokens_per_s": tokens / wall_s,
        "generation/in_flight": float(after.router.in_flight),
        "generation/busy_fraction": (after.router.busy_s - before.router.busy_s) / wall_s,
        "generation/moved": float(after.router.moved - before.router.moved),
        "judge/queue": float(after.judge.queue_length),
        "judge/latency_s": judging_s / judged if judged else 0.0,
        "judge/latency_p50_s": after.judge.latency_p50_s,
        "judge/latency_p99_s": after.judge.latency_p99_s,
        "judge/errors": float(after.judge.errors - before.judge.errors),
        "judge/retries": float(after.judge.retries - before.judge.retries),
    }


def _execution_s(stats: JudgeStats) -> float:
    return stats.mean_execution_s * stats.judged
