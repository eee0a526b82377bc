"""A whole run on two sources whose problems leave and come back, killed in the middle."""

import os
import signal

import pytest
from run_records import assert_no_group_is_trained_twice, batches_of, steps_of, wait_for_steps
from tiny_run import SERVE_PYTHON, program, run, wait_for, write_config, write_inputs, write_jsonl

from megatron_rl.config import load_config
from megatron_rl.programs.builders.prompts import load_tokenizer
from megatron_rl.programs.curriculum.sources import curriculum_sources, load_train_sources
from megatron_rl.run_dir import RunDir, read_jsonl
from tests.unit.programs.curriculum.recorded_problems import (
    check_that_problems_follow_from_outcomes,
)

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.skipif(not SERVE_PYTHON.exists(), reason="no .venv-serve; run `make env`"),
]
NUM_STEPS = 14


def test_a_killed_run_goes_on_with_the_problems_that_its_outcomes_say(tmp_path):
    run_dir = RunDir(tmp_path / "run")
    inputs = write_inputs(tmp_path / "inputs")
    # Both number their problems; these are other ones.
    own = [{"id": f"p{i}", "problem": f"{i}*2", "answer": str(i % 4)} for i in range(8)]
    write_jsonl(inputs / "doubles.jsonl", own)
    path = write_config(inputs, run_dir.root, sft=True)
    problems = inputs / "problems.jsonl"
    settings = [
        f'data.train=[{{path="{problems}", rows="0:12", weight=2, reserve="{problems}"}}, '
        f'{{path="{inputs}/doubles.jsonl", group_size=2, kind="math"}}]',
        "data.lifecycle={retire_above=0.5, retire_visits=1, defer_visits=1, reserve_join=4}",
        "learner.optimizer.lr=1e-3",
    ]
    overrides = [word for setting in settings for word in ("--set", setting)]
    with program("train", str(path), *overrides, "--set", "num_steps=1000") as train:
        wait_for_steps(run_dir, 3, train)
        os.kill(train.pid_of("-m megatron_rl rollout"), signal.SIGKILL)
        train.process.kill()
        wait_for(lambda: not train.processes(), within_s=10)
    exit_code, output = run("train", str(path), *overrides, "--set", f"num_steps={NUM_STEPS}")
    assert exit_code == 0, output
    assert steps_of(run_dir) == list(range(1, NUM_STEPS + 1))
    assert_no_group_is_trained_twice(run_dir)

    config = load_config(path, settings)
    sources = curriculum_sources(
        config, load_train_sources(config, load_tokenizer(config.model.path))
    )
    recorded = check_that_problems_follow_from_outcomes(config, sources)
    assert {name.partition("/")[0] for name in recorded.values()} == {"problems", "doubles"}
    sizes = {"problems": 4, "doubles": 2}
    for batch in batches_of(run_dir):
        assert 16 <= batch.num_sequences < 20
        groups = batch.groups_N.tolist()
        for index, sample in zip(groups, batch.samples, strict=True):
            assert groups.count(index) == sizes[sample["source"]]
    metrics = list(read_jsonl(run_dir.metrics))
    assert metrics[-1]["curriculum/solved"] > 0
    standings = ("active", "solved", "deferred", "reserve")
    for record in metrics:
        assert sum(record[f"curriculum/{standing}"] for standing in standings) == 48
    assert any("source/doubles/reward" in record for record in metrics)
    page = run_dir.report.read_text()
    assert "Reward by source" in page and "where they stand" in page
