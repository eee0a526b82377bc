"""Runs that are stopped, killed in part or whole, and run again by the same command."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from run_records import (
    DP2,
    assert_no_group_is_trained_twice,
    last_step,
    latest_checkpoint,
    steps_of,
    wait_for_steps,
)
from tiny_run import (
    SERVE_PYTHON,
    Program,
    program,
    wait_for,
    write_config,
    write_inputs,
)

from megatron_rl.registry import registered_servers
from megatron_rl.run_dir import RunDir, read_jsonl

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not SERVE_PYTHON.exists(), reason="no serving environment in .venv-serve"),
]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> tuple[RunDir, Path]:
    """A run that the tests below stop and resume again and again, in any order."""
    inputs = write_inputs(tmp_path_factory.mktemp("inputs"))
    run_dir = RunDir(tmp_path_factory.mktemp("interrupted") / "run")
    return run_dir, write_config(inputs, run_dir.root, sft=True)


def test_ctrl_c_or_a_killed_launcher_leave_nothing_and_the_same_command_resumes(interrupted):
    run_dir, config = interrupted
    with program("train", str(config), *DP2, "--set", "num_steps=1000") as train:
        wait_for_steps(run_dir, 3, train)
        pressed = time.monotonic()
        os.killpg(train.pid, signal.SIGINT)
        exit_code, output = train.finish(within_s=20)
        assert time.monotonic() - pressed < 10
        assert exit_code == 75, output
        assert "stopped by SIGINT; run the same command again to resume" in output
        assert train.processes() == {}
    stopped_at = last_step(run_dir)
    assert latest_checkpoint(run_dir) == stopped_at
    written = {path: path.stat().st_mtime_ns for path in run_dir.batches.iterdir()}

    with program("train", str(config), *DP2, "--set", "num_steps=1000") as train:
        wait_for_steps(run_dir, 2, train)
        train.process.kill()
        wait_for(lambda: not train.processes(), within_s=5)
    assert steps_of(run_dir) == list(range(1, last_step(run_dir) + 1))
    assert last_step(run_dir) >= stopped_at + 2
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert_no_group_is_trained_twice(run_dir)


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "exit_code"), [("learn_1", 12), ("rollout", 11)])
def test_a_program_that_is_killed_is_named_and_the_others_are_stopped(
    interrupted, victim, exit_code
):
    run_dir, config = interrupted
    with program("train", str(config), *DP2, "--set", "num_steps=1000") as train:
        wait_for_steps(run_dir, 2, train)
        os.kill(pid_of(train, victim), signal.SIGKILL)
        code, output = train.finish(within_s=30)
        assert code == exit_code, output
        assert f"{victim} ended with exit code -9; the last lines of" in output
        assert train.processes() == {}


def test_a_server_that_is_killed_comes_back_with_current_weights(interrupted):
    run_dir, config = interrupted
    end = latest_checkpoint(run_dir) + 14 if run_dir.checkpoints.exists() else 14
    with program("train", str(config), *DP2, "--set", f"num_steps={end}") as train:
        wait_for_steps(run_dir, 1, train)
        (first,) = registered_servers(run_dir).values()
        os.kill(train.pid_of("-m sglang.launch_server"), signal.SIGKILL)
        exit_code, output = train.finish()
        assert exit_code == 0, output
        assert train.processes() == {}
    assert "serve_0 died with code 1; starting it again" in output
    assert json.loads(run_dir.policy.read_text())["servers"]["server_0"] != first.incarnation
    assert steps_of(run_dir) == list(range(1, end + 1))
    assert_no_group_is_trained_twice(run_dir)
    (after,) = [r for r in read_jsonl(run_dir.evaluations) if r["when"] == "after"]
    assert after["version"] == end


def pid_of(train: Program, name: str) -> int:
    """Return the pid of a child of the launcher: ``rollout`` or ``learn_RANK``."""
    if name == "rollout":
        return train.pid_of("-m megatron_rl rollout")
    rank = name.removeprefix("learn_")
    learners = [p for p, line in train.processes().items() if "-m megatron_rl learn" in line]
    (pid,) = [p for p in learners if f"RANK={rank}" in environment_of(p)]
    return pid


def environment_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_text().split("\0")
