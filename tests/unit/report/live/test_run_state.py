import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from megatron_rl.registry import PolicyState, publish_policy_state
from megatron_rl.report.live.run_state import RunState, read_state
from megatron_rl.run_dir import RunDir, write_json

NOW = 1_000_000.0


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path)
    write_json(run_dir.config, {"num_steps": 4, "sft": None})
    return run_dir


def steps_until(last: int, *, step_s: float = 10.0) -> list[dict[str, Any]]:
    """Return records of the steps to ``last``, which ended now."""
    return [
        {"step": step, "time": NOW - (last - step) * step_s, "time/step_s": step_s}
        for step in range(1, last + 1)
    ]


def state_of(run_dir: RunDir, steps=(), job=None) -> RunState:
    return read_state(run_dir, steps, job, now=NOW)


def publish(run_dir: RunDir, version: int, *, at: float) -> None:
    publish_policy_state(run_dir, PolicyState(version=version, servers={}))
    os.utime(run_dir.policy, (at, at))


def test_a_folder_that_is_not_there_has_not_started(tmp_path: Path):
    assert state_of(RunDir(tmp_path / "none")).state == "not started"


def test_a_launcher_that_lives_makes_it_run(run_dir: RunDir):
    launcher = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "train"])
    try:
        (run_dir.root / ".lock").write_text(f"process {launcher.pid} on {socket.gethostname()}\n")
        deadline = time.monotonic() + 30
        # The system knows a process before it knows its command line.
        while state_of(run_dir).state != "running":
            assert time.monotonic() < deadline
        assert state_of(run_dir).phase == "starting servers"
    finally:
        launcher.kill()
        launcher.wait()
    assert state_of(run_dir).state == "stopped"
    assert state_of(run_dir).phase == ""


def test_a_process_that_took_over_the_number_of_the_launcher_is_none(run_dir: RunDir):
    (run_dir.root / ".lock").write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
    assert state_of(run_dir).state == "stopped"


def test_a_launcher_of_another_machine_cannot_be_seen(run_dir: RunDir):
    (run_dir.root / ".lock").write_text(f"process {os.getpid()} on elsewhere\n")
    assert state_of(run_dir).state == "unknown"
    (run_dir.root / ".lock").unlink()
    assert state_of(run_dir).state == "unknown"


def test_a_job_speaks_for_itself_until_it_falls_silent(run_dir: RunDir):
    job = {"state": "preflight", "updated": NOW - 10}
    assert (state_of(run_dir, job=job).state, state_of(run_dir, job=job).phase) == (
        "running",
        "preflight",
    )
    assert state_of(run_dir, job=job | {"updated": NOW - 61}).state == "stopped"
    assert state_of(run_dir, job=job | {"state": "failed"}).state == "stopped"


def test_phases_follow_from_what_is_there(run_dir: RunDir):
    write_json(run_dir.config, {"num_steps": 4, "sft": {"data": "x"}})
    assert state_of(run_dir).phase == "cold start"
    run_dir.sft_hf.mkdir(parents=True)
    assert state_of(run_dir).phase == "starting servers"
    publish(run_dir, 0, at=NOW)
    assert state_of(run_dir).phase == "training"
    assert state_of(run_dir, steps_until(4)).phase == "evaluation"
    run_dir.report.touch()
    run_dir.hf.mkdir()
    assert state_of(run_dir, steps_until(4)).state == "complete"
    assert state_of(run_dir, steps_until(3)).state != "complete"


def test_a_step_is_slow_when_it_takes_three_times_the_longest(run_dir: RunDir):
    publish(run_dir, 2, at=NOW)
    state = state_of(run_dir, steps_until(2, step_s=100.0))
    assert (state.step_began, state.usual_step_s) == (NOW, 100.0)
    assert not state.is_slow(NOW + 300)
    assert state.is_slow(NOW + 301)


def test_short_steps_are_not_slow_within_a_minute(run_dir: RunDir):
    publish(run_dir, 2, at=NOW)
    state = state_of(run_dir, steps_until(2, step_s=1.0))
    assert not state.is_slow(NOW + 60)
    assert state.is_slow(NOW + 61)


def test_the_time_that_a_resumed_run_stood_still_is_not_its_step(run_dir: RunDir):
    # Its last life ended long ago; this one published its weights a moment ago.
    publish(run_dir, 2, at=NOW + 100_000)
    state = state_of(run_dir, steps_until(2))
    assert not state.is_slow(NOW + 100_010)


def test_the_first_step_has_no_usual_time(run_dir: RunDir):
    publish(run_dir, 0, at=NOW)
    assert not state_of(run_dir).is_slow(NOW + 10_000)


def test_a_stopped_run_is_not_slow(run_dir: RunDir):
    publish(run_dir, 2, at=NOW)
    job = {"state": "failed", "updated": NOW}
    assert not state_of(run_dir, steps_until(2), job).is_slow(NOW + 10_000)
