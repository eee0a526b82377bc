"""Batches of a known age: the scheme between lockstep and full asynchrony."""

import pytest
from run_records import batches_of, steps_of
from tiny_run import SERVE_PYTHON, run, write_config, write_inputs

from megatron_rl.run_dir import RunDir, read_jsonl

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.skipif(not SERVE_PYTHON.exists(), reason="no .venv-serve; run `make env`"),
]
NUM_STEPS = 5


@pytest.mark.parametrize("lag", [1, 2])
def test_every_batch_is_sampled_from_the_version_of_its_lag(tmp_path, lag):
    run_dir = RunDir(tmp_path / "run")
    config = write_config(write_inputs(tmp_path / "inputs"), run_dir.root, sft=True)
    settings = [f"num_steps={NUM_STEPS}", "rollout.mode='lagged'", f"rollout.lag={lag}"]
    overrides = [word for setting in settings for word in ("--set", setting)]
    exit_code, output = run("train", str(config), *overrides)
    assert exit_code == 0, output
    assert steps_of(run_dir) == list(range(1, NUM_STEPS + 1))
    for step, batch in enumerate(batches_of(run_dir)):
        sampled = max(0, step - lag)
        assert (batch.oldest_version, batch.newest_version) == (sampled, sampled)
        assert batch.metrics["rollout/spanning_fraction"] == 0
    # They were the old weights indeed: to newer ones, the learner's, tokens are less alike.
    first, *later = (r["policy/logprob_difference"] for r in read_jsonl(run_dir.metrics))
    assert first < 1e-5
    assert max(later) > 10 * first
