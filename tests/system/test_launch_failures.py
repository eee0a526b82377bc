"""A run whose programs cannot start ends by itself and says why."""

import pytest
from tiny_run import run, write_config, write_inputs

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
