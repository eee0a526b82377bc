"""``megatron-rl check`` with the real server and the real learner: a look before the leap."""

from pathlib import Path

import pytest
from tiny_run import SERVE_PYTHON, run, write_config, write_inputs

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not SERVE_PYTHON.exists(), reason="no serving environment in .venv-serve"),
]


def test_a_policy_that_does_not_know_the_format_is_shown_and_compared_with_the_learner(
    tmp_path: Path,
):
    inputs = write_inputs(tmp_path)
    config = write_config(inputs, tmp_path / "run", sft=False)
    exit_code, output = run(
        "check", str(config), "--groups", "3", "--set=rollout.drop_zero_advantage=reward"
    )
    assert exit_code == 1, output  # random weights: nothing could be learnt
    assert "12 responses to 3 problems" in output
    assert "format 0%" in output and "12 times: does not start with <think>" in output
    assert "WARNING: no response has the format" in output
    assert "groups that teach nothing: 3 of 3" in output
    assert "prompt of 4 tokens" in output and "|+|" in output
    assert "log-probs of learner and server agree: mean " in output
    assert not (tmp_path / "run" / "servers").exists() or not list(
        (tmp_path / "run" / "servers").iterdir()
    )


def test_weights_that_are_not_there_yet_are_no_policy_to_look_at(tmp_path: Path):
    inputs = write_inputs(tmp_path)
    (inputs / "model" / "model.safetensors").unlink()
    config = write_config(inputs, tmp_path / "run", sft=False)
    exit_code, output = run("check", str(config), "--set=model.init=random")
    assert exit_code == 2, output
    assert "has no weights to sample from (model.init is" in output
