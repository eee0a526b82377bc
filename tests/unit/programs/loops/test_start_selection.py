"""Which model of a cold start RL starts from."""

import pytest

from megatron_rl.config import SftConfig
from megatron_rl.programs.loops.selection import (
    best_of,
    candidates_of,
    describe_selection,
    scores_of,
)
from megatron_rl.programs.sft import candidate_steps
from megatron_rl.run_dir import RunDir, append_jsonl


def sft(**settings) -> SftConfig:
    return SftConfig.model_validate({"data": "d.jsonl", **settings})


@pytest.mark.parametrize(
    ("total", "candidates", "steps"),
    [(100, 4, {25, 50, 75, 100}), (10, 3, {3, 7, 10}), (2, 4, {1, 2}), (7, 1, {7})],
)
def test_candidates_lie_at_equal_distances_the_last_included(total, candidates, steps):
    chosen = sft(select="evaluation", candidates=candidates)
    assert candidate_steps(chosen, total) == steps


def test_without_a_selection_there_are_no_candidates():
    assert candidate_steps(sft(), 100) == frozenset()


def test_the_best_is_chosen_and_of_equals_the_earliest():
    scores = {10: {"pass@1": 0.5}, 20: {"pass@1": 0.7}, 30: {"pass@1": 0.7}, 40: {"pass@1": 0.1}}
    assert best_of(scores) == 20


def test_scores_are_told_by_step(tmp_path):
    run_dir = RunDir(tmp_path)
    assert describe_selection(run_dir) == []
    for step, score in ((20, 0.25), (10, 0.5)):
        (run_dir.sft_candidates / f"step_{step:06d}").mkdir(parents=True)
        append_jsonl(run_dir.sft_selection, {"step": step, "pass@1": score})
    assert list(candidates_of(run_dir)) == sorted(scores_of(run_dir)) == [10, 20]
    first, second = describe_selection(run_dir)
    assert first == "cold start, step 10: pass@1 50.0%"
    run_dir.sft_hf.mkdir()
    first, second = describe_selection(run_dir)
    assert first == "cold start, step 10: pass@1 50.0%, which RL starts from"
    assert second == "cold start, step 20: pass@1 25.0%"
