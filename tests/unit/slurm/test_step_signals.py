"""Stop requests to a step: a task that still starts survives them and stops later."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_rl.placement.srun import _STEP
from megatron_rl.programs.slurm_job.signals import JobSignals
from megatron_rl.slurm.step import Step

PROGRAM = """
import pathlib, signal, sys, time
print("up", flush=True)
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.01)
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
print("listens", flush=True)
time.sleep(30)
"""


def test_the_shell_of_a_task_keeps_a_signal_from_a_program_that_does_not_listen_yet(tmp_path):
    record, gate = tmp_path / "learn", tmp_path / "gate"
    shell = subprocess.Popen(
        ["bash", "-c", _STEP, "step", record, sys.executable, "-c", PROGRAM, gate],
        env=os.environ | {"SLURM_PROCID": "3"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert shell.stdout.readline() == "up\n"
    shell.send_signal(signal.SIGUSR1)
    time.sleep(0.1)
    assert shell.poll() is None
    gate.touch()
    assert shell.stdout.readline() == "listens\n"
    shell.send_signal(signal.SIGUSR1)
    assert shell.wait(10) == 0  # or srun would kill the ranks that still clear up
    assert Path(f"{record}_3").read_text().split()[0] == "75"


@pytest.fixture
def step(tmp_path):
    """A step whose srun is a program that counts what it is asked."""
    count = (
        "trap 'echo asked >>$0' USR1; touch $0; "
        "end=$((SECONDS + 30)); while ((SECONDS < end)); do sleep 0.02; done"
    )
    asked = tmp_path / "asked"
    (tmp_path / "exits").mkdir()
    step = Step(
        "learn",
        "learn",
        ["bash", "-c", count, str(asked)],
        os.environ,
        logs=tmp_path,
        exits=tmp_path / "exits",
    )
    while not asked.exists():
        time.sleep(0.01)
    yield step, asked
    step.kill()


def asks(asked: Path, monkeypatch, *, of: Step, age_s: float) -> int:
    """Ask a step of this age and return how often it was asked so far."""
    monkeypatch.setattr(of, "_started", time.monotonic() - age_s)
    of.ask_to_stop()
    time.sleep(0.2)
    return len(asked.read_text().splitlines())


def test_a_step_that_has_just_started_is_not_asked(step, monkeypatch):
    one, asked = step
    assert asks(asked, monkeypatch, of=one, age_s=0.5) == 0
    assert asks(asked, monkeypatch, of=one, age_s=60) == 1


class CountedStep:
    def __init__(self) -> None:
        self.asked = 0

    def ask_to_stop(self) -> None:
        self.asked += 1


def test_a_step_is_told_again_that_time_is_up(monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    step = CountedStep()
    with JobSignals() as signals:
        signals.forward_to([step])
        signals.remind()
        assert step.asked == 0
        os.kill(os.getpid(), signal.SIGUSR1)
        assert step.asked == 1
        now += 1.0
        signals.remind()
        assert step.asked == 1
        now += 1.5
        signals.remind()
        assert step.asked == 2


def test_a_step_that_starts_when_time_is_up_is_told_too():
    with JobSignals() as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        step = CountedStep()
        signals.forward_to([step])
        assert step.asked == 0
        signals._announced -= 60
        signals.remind()
        assert step.asked == 1
