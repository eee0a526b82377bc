"""Culprit among the tasks of a step that have ended, on nodes whose clocks differ."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from megatron_rl.placement.srun import _STEP
from megatron_rl.slurm.step import Step, TaskEnd, culprit

pytestmark = pytest.mark.lengthy

SECOND = 10**9


def ends(*codes_and_seconds: tuple[int, float]) -> list[TaskEnd]:
    return [
        TaskEnd(code=code, time_ns=int(seconds * SECOND), task=task)
        for task, (code, seconds) in enumerate(codes_and_seconds)
    ]


@pytest.mark.parametrize(
    ("codes_and_seconds", "task"),
    [
        # Killed at 0 s; the peer noticed 20 ms later, by a clock that is 1.5 s behind.
        ([(1, -1.48), (137, 0.0)], 1),
        ([(1, 2.0), (3, 1.0)], 1),  # of two that failed by themselves the first
        ([(143, 0.5), (1, 1.0)], 1),  # srun ends the others with SIGTERM
        ([(134, 0.5), (139, 1.0)], 1),  # NCCL's watchdog aborts ranks whose peer crashed
        ([(134, 2.0), (1, 1.0)], 1),
        ([(75, 0.1), (0, 0.2), (1, 3.0)], 2),  # the first two have ended well
    ],
)
def test_how_a_task_ended_tells_more_than_when(codes_and_seconds, task):
    assert culprit(ends(*codes_and_seconds)).task == task


def test_tasks_that_saved_because_time_was_up_have_not_failed():
    assert culprit(ends((75, 1.0), (0, 2.0))) is None


@pytest.fixture
def start(tmp_path: Path):
    """Start a step whose srun is this shell code; tasks leave word as they would."""
    exits = tmp_path / "exits"
    exits.mkdir()
    started: list[Step] = []

    def step_of(srun: str) -> Step:
        argv = ["bash", "-c", srun]
        step = Step("learn", "learn", argv, os.environ, logs=tmp_path, exits=exits)
        started.append(step)
        return step

    yield step_of
    for step in started:
        step.kill()


def wait_for(holds, *, within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_task_that_failed_counts_while_srun_still_waits_for_the_others(start, tmp_path):
    step = start(f"echo 7 1 >{tmp_path}/exits/learn_1; sleep 30")
    wait_for(lambda: step.poll() is not None)
    assert step.poll() == 7
    assert step.is_running
    assert "learn ended with exit code 7 (task 1)" in str(step.failure())


def test_ranks_that_saved_end_well_for_srun_and_with_75_for_the_job(start, tmp_path):
    step = start(f"echo 75 1 >{tmp_path}/exits/learn_0; sleep 0.3")
    assert step.poll() is None
    wait_for(lambda: not step.is_running)
    assert step.poll() == 75


@pytest.mark.parametrize("message", ["No space left on device", "Disk quota exceeded"])
def test_a_full_disk_or_quota_is_named_where_a_task_complains_of_it(start, tmp_path, message):
    (tmp_path / "learn_0.log").write_text(f"OSError: [Errno 1] {message}\n")
    step = start(f"echo 1 1 >{tmp_path}/exits/learn_0")
    wait_for(lambda: step.poll() == 1)
    assert f"the disk of {tmp_path} is full, or your quota of it" in str(step.failure())


def test_a_task_that_does_not_listen_is_killed_once_another_has_failed(tmp_path):
    record = tmp_path / "learn"
    Path(f"{record}_1").write_text("3 1\n")
    quick = _STEP.replace("sleep 10", "sleep 0.2")
    deaf = ["bash", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"]
    shell = subprocess.Popen(
        ["bash", "-c", quick, "step", record, *deaf],
        env=os.environ | {"SLURM_PROCID": "0"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert shell.stdout.readline() == "up\n"
    shell.send_signal(signal.SIGTERM)
    assert shell.wait(10) == 143  # as one that follows, not as one that something killed
    assert Path(f"{record}_0").read_text().startswith("143 ")


def test_a_task_that_saves_at_sigterm_is_left_alone_while_no_other_has_failed(tmp_path):
    record = tmp_path / "learn"
    Path(f"{record}_1").write_text("75 1\n")
    quick = _STEP.replace("sleep 10", "sleep 0.1")
    saves = "trap 'sleep 1; exit 75' TERM; echo up; while :; do sleep 0.1; done"
    shell = subprocess.Popen(
        ["bash", "-c", quick, "step", record, "bash", "-c", saves],
        env=os.environ | {"SLURM_PROCID": "0"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert shell.stdout.readline() == "up\n"
    shell.send_signal(signal.SIGTERM)
    assert shell.wait(10) == 0
    assert Path(f"{record}_0").read_text().startswith("75 ")


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("exec sleep 30", 143),
        ("trap 'exit 75' TERM; while :; do sleep 0.05; done", 75),
        ("trap 'exit 3' TERM; while :; do sleep 0.05; done", 3),
    ],
)
def test_the_code_of_a_task_that_is_signalled_together_with_its_shell_is_kept(
    tmp_path, program, code
):
    """As Slurm does it, to all processes of a step; bash 5.2 loses it when it waits."""
    record = tmp_path / "learn"
    for _ in range(4):
        shell = subprocess.Popen(
            ["bash", "-c", _STEP, "step", record, "bash", "-c", f"echo up; {program}"],
            env=os.environ | {"SLURM_PROCID": "0"},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert shell.stdout.readline() == "up\n"
        time.sleep(0.1)
        os.killpg(shell.pid, signal.SIGTERM)
        shell.wait(10)
        assert Path(f"{record}_0").read_text().split()[0] == str(code)
