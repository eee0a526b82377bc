"""A cold start of which evaluation chooses the model that RL starts from."""

import pytest
import torch
from run_records import weights_of
from tiny_run import SERVE_PYTHON, run, write_config, write_inputs

from megatron_rl.programs.loops.selection import best_of, candidates_of, scores_of
from megatron_rl.run_dir import RunDir, read_jsonl

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not SERVE_PYTHON.exists(), reason="no serving environment in .venv-serve"),
]


def test_rl_starts_from_the_candidate_that_solves_most(tmp_path):
    run_dir = RunDir(tmp_path / "run")
    config = write_config(write_inputs(tmp_path), run_dir.root, sft=True)
    chosen = ("--set=sft.select=evaluation", "--set=sft.candidates=2", "--set=num_steps=1")
    code, output = run("train", str(config), *chosen)
    assert code == 0, output[-3000:]
    candidates, scores = candidates_of(run_dir), scores_of(run_dir)
    # 12 epochs of two steps.
    assert list(candidates) == sorted(scores) == [12, 24]
    best = best_of(scores)
    start, expected = weights_of(run_dir.sft_hf), weights_of(candidates[best])
    assert all(torch.equal(start[name], expected[name]) for name in expected)
    assert f"cold start, step {best}: pass@1" in output
    assert "which RL starts from" in output
    # The run's first evaluation is of the same model, on the same problems.
    before = next(iter(read_jsonl(run_dir.evaluations)))
    assert (before["when"], before["version"]) == ("before", 0)
    assert before["problems"] == scores[best]["problems"]


def test_a_selection_without_held_out_problems_is_refused(tmp_path):
    config = write_config(write_inputs(tmp_path), tmp_path / "run", sft=True)
    code, output = run(
        *("train", str(config), "--set=sft.select=evaluation", "--set=data.evaluation=null")
    )
    assert code == 2
    assert 'sft.select ("evaluation") needs held-out problems' in output
