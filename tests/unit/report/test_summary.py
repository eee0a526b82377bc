import math

import pytest

from megatron_rl.report.summary import latest_by, summarize, weighted_mean


def evaluation(version: int, when: str, pass_at_1: float, *, time: float = 0.0) -> dict:
    return {
        "version": version, "time": time, "when": when, "problems": 8, "samples": 4, "k": 4,
        "pass@1": pass_at_1, "pass@k": pass_at_1 + 0.25, "maj@k": pass_at_1 + 0.125,
        "format": 1.0, "length_mean": 10.0, "seconds": 1.0,
    }  # fmt: skip


def summary_of(*, metrics=(), evaluations=(), sft_metrics=(), phase_seconds=None) -> dict:
    return summarize(
        metrics=metrics,
        evaluations=evaluations,
        sft_metrics=sft_metrics,
        phase_seconds=phase_seconds or {},
    )


def test_an_empty_run_has_the_same_keys_as_a_full_one():
    full = summary_of(
        metrics=[{"step": 1, "reward/total": 1.0}],
        evaluations=[evaluation(0, "before", 0.5)],
        sft_metrics=[{"step": 1, "sft/loss": 2.0}],
    )
    empty = summary_of()
    assert empty.keys() == full.keys()
    assert empty["steps"] == 0
    assert empty["policy_versions"] == 0
    assert empty["reward/first"] is None
    assert empty["pass@1/before"] is None


def test_scores_are_taken_before_after_and_at_the_best_moment_during():
    summary = summary_of(
        evaluations=[
            evaluation(0, "before", 0.125),
            evaluation(20, "during", 0.5),
            evaluation(40, "during", 0.25),
            evaluation(60, "after", 0.375),
        ]
    )
    assert summary["pass@1/before"] == 0.125
    assert summary["pass@1/after"] == 0.375
    assert summary["pass@1/best_during"] == 0.5
    assert summary["pass@1/best_during_version"] == 20
    assert summary["pass@k/after"] == 0.625  # 0.375 + 0.25
    assert summary["maj@k/before"] == 0.25  # 0.125 + 0.125


def test_an_evaluation_counts_where_its_tokens_were_sampled():
    record = evaluation(20, "during", 0.5) | {"version_mean": 21.75}
    assert summary_of(evaluations=[record])["pass@1/best_during_version"] == 21.75


def test_an_evaluation_repeated_after_a_resume_replaces_the_first():
    summary = summary_of(
        evaluations=[evaluation(20, "during", 0.75), evaluation(20, "during", 0.5, time=9.0)]
    )
    assert summary["pass@1/best_during"] == 0.5


def test_each_set_has_its_scores_and_the_first_of_the_configuration_the_headline():
    code = {"set": "code", "place": 1}
    aime = {"set": "aime24", "place": 0}
    summary = summary_of(
        evaluations=[
            evaluation(0, "before", 0.5) | code,
            evaluation(0, "before", 0.25) | aime,
            evaluation(9, "after", 0.75) | aime | {"pass@1_stderr": 0.0625},
        ]
    )
    assert summary["evaluation/set"] == "aime24"
    assert (summary["pass@1/before"], summary["pass@1/after"]) == (0.25, 0.75)
    assert summary["evaluation/aime24/pass@1/after"] == 0.75
    assert summary["evaluation/aime24/pass@1_stderr/after"] == 0.0625
    assert summary["evaluation/aime24/problems"] == 8
    assert summary["evaluation/code/pass@1/before"] == 0.5
    assert summary["evaluation/code/pass@1/after"] is None
    both = summary_of(evaluations=[evaluation(0, "before", 0.5) | code, evaluation(0, "before", 1)])
    assert (both["evaluation/set"], both["pass@1/before"]) == (None, 1)


def test_spanning_and_staleness_are_of_what_is_trained_not_of_what_is_sampled():
    summary = summary_of(
        metrics=[
            {
                "step": 1,
                "rollout/completions": 10,
                "rollout/trained_completions": 8,
                "rollout/trained_tokens": 100,
                "rollout/spanning_fraction": 0.5,
                "rollout/staleness_mean": 1.0,
            },
            {
                "step": 2,
                "rollout/completions": 30,
                "rollout/trained_completions": 8,
                "rollout/trained_tokens": 300,
                "rollout/spanning_fraction": 1.0,
                "rollout/staleness_mean": 0.0,
            },
        ]
    )
    assert summary["rollout/spanning_fraction"] == 0.75  # (4 + 8) / 16
    assert summary["rollout/staleness_mean"] == 0.25  # 100 / 400
    assert summary["rollout/completions"] == 40


def test_busy_fraction_is_over_the_time_of_the_steps():
    summary = summary_of(
        metrics=[
            {"step": 1, "generation/busy_fraction": 1.0, "time/step_s": 1.0},
            {"step": 2, "generation/busy_fraction": 0.5, "time/step_s": 3.0},
        ]
    )
    assert summary["generation/busy_fraction"] == 0.625  # (1 + 1.5) / 4


def test_packing_waste_is_per_row_and_throughput_is_the_median():
    summary = summary_of(
        metrics=[
            {"step": 1, "packing/waste": 0.5, "packing/rows": 1, "learner/tokens_per_s": 10.0},
            {"step": 2, "packing/waste": 0.0, "packing/rows": 3, "learner/tokens_per_s": 90.0},
            {"step": 3, "learner/tokens_per_s": 20.0},
        ]
    )
    assert summary["packing/waste"] == 0.125  # 0.5 * 1 / 4; step 3 says nothing
    assert summary["learner/tokens_per_s"] == 20.0
    assert summary["generation/tokens_per_s"] is None


def test_reward_first_and_last_are_means_over_a_tenth_of_the_run():
    metrics = [{"step": step, "reward/total": float(step)} for step in range(1, 21)]
    summary = summary_of(metrics=metrics)
    assert summary["reward/first"] == 1.5  # (1 + 2) / 2
    assert summary["reward/last"] == 19.5  # (19 + 20) / 2
    assert summary["reward/window_steps"] == 2


def test_counts_add_up_and_the_largest_staleness_is_kept():
    summary = summary_of(
        metrics=[
            {"step": 1, "rollout/dropped_groups": 2, "judge/errors": 1, "rollout/staleness_max": 3},
            {"step": 2, "rollout/dropped_groups": 5, "judge/errors": 0, "rollout/staleness_max": 1},
        ]
    )
    assert summary["rollout/dropped_groups"] == 7
    assert summary["judge/errors"] == 1
    assert summary["rollout/staleness_max"] == 3
    assert summary["steps"] == 2
    assert summary["policy_versions"] == 3  # versions 0, 1 and 2


def test_phases_and_cold_start_are_reported():
    summary = summary_of(
        sft_metrics=[{"step": 1, "sft/loss": 2.0}, {"step": 2, "sft/loss": 1.0}],
        phase_seconds={"training": 60.0, "evaluation": 5.5},
    )
    assert summary["wall_s/training"] == 60.0
    assert summary["wall_s"] == 65.5
    assert (summary["sft/loss_first"], summary["sft/loss_last"]) == (2.0, 1.0)


def test_the_last_record_of_a_repeated_step_wins_and_steps_are_sorted():
    records = [{"step": 2, "x": 1}, {"step": 1, "x": 2}, {"step": 2, "x": 3}]
    assert latest_by(records, "step") == [{"step": 1, "x": 2}, {"step": 2, "x": 3}]


@pytest.mark.parametrize("bad", [math.nan, math.inf, None])
def test_values_that_are_no_numbers_do_not_enter_a_mean(bad):
    records = [{"x": 1.0, "w": 1.0}, {"x": bad, "w": 5.0}]
    assert weighted_mean(records, "x", "w") == 1.0


def test_a_mean_without_weight_is_unknown():
    assert weighted_mean([{"x": 1.0, "w": 0}], "x", "w") is None
