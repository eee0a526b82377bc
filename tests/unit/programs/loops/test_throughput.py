import pytest

from megatron_rl.generation.router_stats import RouterSnapshot
from megatron_rl.judge.judge import JudgeStats
from megatron_rl.programs.loops.throughput import Counters, metrics_between


def reading(time_s: float, *, tokens: int, busy_s: float, judged: int, mean_s: float) -> Counters:
    return Counters(
        time_s=time_s,
        router=RouterSnapshot(
            num_routable=1,
            in_flight=3,
            finished=0,
            moved=0,
            generated_tokens=tokens,
            busy_s=busy_s,
        ),
        judge=JudgeStats(
            judged=judged,
            errors=judged // 10,
            retries=judged // 5,
            queue_length=2,
            mean_execution_s=mean_s,
            latency_p50_s=0.2,
            latency_p99_s=0.9,
        ),
    )


def test_metrics_are_of_the_time_between_two_readings():
    before = reading(10.0, tokens=100, busy_s=1.0, judged=10, mean_s=1.0)
    after = reading(14.0, tokens=500, busy_s=4.0, judged=20, mean_s=2.0)
    metrics = metrics_between(before, after)
    assert metrics["generation/tokens_per_s"] == 100.0
    assert metrics["generation/busy_fraction"] == 0.75
    assert metrics["judge/latency_s"] == pytest.approx(3.0)  # (20 * 2 - 10 * 1) / 10
    assert (metrics["judge/errors"], metrics["judge/retries"]) == (1.0, 2.0)
    assert (metrics["judge/latency_p50_s"], metrics["judge/latency_p99_s"]) == (0.2, 0.9)
    assert (metrics["generation/in_flight"], metrics["judge/queue"]) == (3.0, 2.0)


def test_an_interval_without_verdicts_has_no_latency():
    same = reading(10.0, tokens=0, busy_s=0.0, judged=0, mean_s=0.0)
    assert metrics_between(same, same)["judge/latency_s"] == 0.0
