"""Endings of a stage: rules over what the run has recorded, as pure functions.

A rule compares the last ``window`` steps with as many before them, all of this stage, so that it
says nothing before twice its window. Each returns why it ends the stage, in words, or None.
"""

from collections.abc import Iterator, Mapping, Sequence

from megatron_rl.config import (
    EndsWhenConfig,
    LengthStagnates,
    PassRatePlateaus,
    ProblemsSolved,
    RewardPlateaus,
)

Record = Mapping[str, float]


def ending(
    rules: EndsWhenConfig,
    steps: Sequence[Record],
    evaluations: Sequence[Record],
    *,
    first_step: int,
) -> str | None:
    """Return why a stage is over after its last record, or None while it goes on.

    Args:
        rules: of the stage.
        steps: records of the run's steps in order, those of earlier stages included.
        evaluations: records of the first held-out set, with ``version`` and ``pass@1``.
        first_step: version at which the stage began: its first record is that of the next step.
    """
    mine = [record for record in steps if record["step"] > first_step]
    if not mine or len(mine) < rules.min_steps:
        return None
    last = int(mine[-1]["step"])
    held_out = [r for r in evaluations if first_step <= r["version"] <= last]
    return next(_broken(rules, mine, held_out, last), None)


def _broken(
    rules: EndsWhenConfig,
    steps: Sequence[Record],
    evaluations: Sequence[Record],
    last: int,
) -> Iterator[str]:
    found = (
        rules.length_stagnates and _length(rules.length_stagnates, steps),
        rules.reward_plateaus and _reward(rules.reward_plateaus, steps),
        rules.pass_rate_plateaus and _pass_rate(rules.pass_rate_plateaus, evaluations, last),
        rules.problems_solved and _solved(rules.problems_solved, steps),
    )
    yield from filter(None, found)


def _length(rule: LengthStagnates, steps: Sequence[Record]) -> str | None:
    halves = _halves([record["rollout/length_mean"] for record in steps], rule.window)
    if halves is None or halves[1] >= halves[0] * (1 + rule.min_growth):
        return None
    return (
        f"the mean length went from {halves[0]:.1f} to {halves[1]:.1f} tokens in {rule.window} "
        f"steps (length_stagnates.min_growth = {rule.min_growth:g})"
    )


def _reward(rule: RewardPlateaus, steps: Sequence[Record]) -> str | None:
    halves = _halves([record["reward/total"] for record in steps], rule.window)
    if halves is None or halves[1] >= halves[0] + rule.min_gain:
        return None
    return (
        f"the reward went from {halves[0]:.4f} to {halves[1]:.4f} in {rule.window} steps "
        f"(reward_plateaus.min_gain = {rule.min_gain:g})"
    )


def _pass_rate(rule: PassRatePlateaus, evaluations: Sequence[Record], last: int) -> str | None:
    """Compare evaluations by version: there are fewer of them than steps."""
    border = last - rule.window
    late = [r["pass@1"] for r in evaluations if r["version"] > border]
    early = [r["pass@1"] for r in evaluations if border - rule.window < r["version"] <= border]
    if not late or not early or _mean(late) >= _mean(early) + rule.min_gain:
        return None
    return (
        f"pass@1 went from {_mean(early):.4f} to {_mean(late):.4f} in {rule.window} steps "
        f"(pass_rate_plateaus.min_gain = {rule.min_gain:g})"
    )


def _solved(rule: ProblemsSolved, steps: Sequence[Record]) -> str | None:
    if len(steps) < rule.window:
        return None
    recent = steps[-rule.window :]
    solved = sum(record["rollout/dropped_right"] for record in recent)
    groups = sum(r["rollout/kept_groups"] + r["rollout/dropped_groups"] for r in recent)
    if solved <= rule.max_share * groups:
        return None
    return (
        f"{solved / groups:.0%} of the groups of {rule.window} steps were solved by every "
        f"completion (problems_solved.max_share = {rule.max_share:g})"
    )


def _halves(values: Sequence[float], window: int) -> tuple[float, float] | None:
    """Return the means of the last values and of as many before; None where there are too few."""
    if len(values) < 2 * window:
        return None
    return _mean(values[-2 * window : -window]), _mean(values[-window:])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
