"""Recorded runs of an ablation, small."""

from collections.abc import Sequence

from megatron_rl.report.ablation.records import RunRecords, VariantRecords


def make_steps(rewards: Sequence[float], *, groups: float = 4, tokens: float = 100) -> list[dict]:
    """Return a record for each step from 1, every step with as many groups and tokens."""
    return [
        {
            "step": step,
            "reward/total": reward,
            "rollout/started_groups": groups,
            "rollout/trained_tokens": tokens,
            "rollout/length_mean": 10.0 * step,
            "policy/entropy": 1.0 / step,
        }
        for step, reward in enumerate(rewards, start=1)
    ]


def make_evaluation(when: str, version: int, score: float, **further) -> dict:
    return {"when": when, "version": version, "time": version, "pass@1": score, **further}


def make_run(
    seed: int,
    *,
    rewards: Sequence[float] = (0.1, 0.2),
    scores: tuple[float, float] | None = (0.2, 0.6),
    stage: str = "done",
) -> RunRecords:
    """Return a run with an evaluation before and one after, if it has scores."""
    evaluations = []
    if scores is not None:
        last = len(rewards)
        evaluations = [
            make_evaluation("before", 0, scores[0]),
            make_evaluation("after", last, scores[1]),
        ]
    return RunRecords(
        seed=seed,
        stage=stage,
        progress=stage,
        metrics=make_steps(rewards),
        evaluations=evaluations,
        wall_s=60.0,
    )


def make_variant(name: str, *runs: RunRecords, start_of: str | None = None) -> VariantRecords:
    return VariantRecords(name=name, settings="nothing", runs=runs, start_of=start_of)
