"""A run whose programs cannot start ends by itself and says why."""

import pytest
from tiny_run import run, write_config, write_inputs

from megatron_rl.programs.loops.barren_record import current_stretch
from megatron_rl.run_dir import RunDir

pytestmark = [pytest.mark.system]


def test_a_server_that_dies_while_starting_ends_the_run_with_its_last_lines(tmp_path):
    inputs = write_inputs(tmp_path)
    config = write_config(inputs, tmp_path / "run", sft=False)
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho this is not sglang\nexit 3\n")
    broken.chmod(0o755)
    # A flag would be looked up beforehand, by the same interpreter.
    text = config.read_text()
    config.write_text("\n".join(line for line in text.split("\n") if "sglang = " not in line))

    override = ("--set", f'generators.python="{broken}"')
    exit_code, output = run("train", str(config), *override)
    assert exit_code == 10
    assert "serve_0 ended with exit code 1; the last lines of" in output
    assert "exited with code 3 while starting" in output
    assert "this is not sglang" in output


@pytest.mark.slow
def test_a_policy_that_never_writes_the_format_ends_the_run_with_a_response_and_the_remedy(
    tmp_path,
):
    config = write_config(write_inputs(tmp_path), tmp_path / "run", sft=False)
    overrides = ('rollout.drop_zero_advantage="reward"', "rollout.max_barren_groups=12")
    words = [word for override in overrides for word in ("--set", override)]
    exit_code, output = run("train", str(config), *words)
    assert exit_code == 11
    said = " ".join(output.split())
    assert "12 groups in a row are dropped, since they teach nothing (12 all malformed" in said
    assert "does not start with <think>" in said
    assert "rollout.max_barren_groups (12)" in said
    assert "teach it in a cold start ([sft])" in said
    stretch = current_stretch(RunDir(tmp_path / "run").barren)
    assert stretch is not None and stretch.num_groups == 12
