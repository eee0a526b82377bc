import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from megatron_rl.report.follow import JsonlFollower
from megatron_rl.report.progress import PHASES, ProgressDisplay, StepTimer, format_clock

EVALUATION = {"version": 0, "pass@1": 0.25}


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def line(step: int, clock: Clock) -> dict:
    return {"step": step, "time": clock(), "reward/total": 0.5, "rollout/length_mean": 1234.0}


def open_display(clock: Clock, *, is_terminal: bool) -> tuple[ProgressDisplay, io.StringIO]:
    output = io.StringIO()
    console = Console(file=output, force_terminal=is_terminal, width=120)
    return ProgressDisplay(title="run", phases=PHASES, console=console, clock=clock), output


def train(display: ProgressDisplay, clock: Clock, *, num_steps: int, step_s: float) -> None:
    display.start_phase("training", num_steps=num_steps)
    for step in range(1, num_steps + 1):
        clock.now_s += step_s
        display.update(metrics=line(step, clock), evaluations=[EVALUATION], status="2 servers")


def test_without_a_terminal_a_line_is_printed_every_ten_steps_and_at_the_end():
    clock = Clock()
    display, output = open_display(clock, is_terminal=False)
    with display:
        train(display, clock, num_steps=25, step_s=0.1)
    lines = output.getvalue().splitlines()
    assert "\x1b" not in output.getvalue()
    # Start; step 1 brings the first evaluation; then every tenth step and the last one.
    assert [text.split(":")[0] for text in lines] == [
        "training",
        "training 1/25",
        "training 11/25",
        "training 21/25",
        "training 25/25",
    ]
    assert "reward 0.500, pass@1 25.0% (v0), length 1,234" in lines[-1]


def test_without_a_terminal_slow_steps_are_printed_after_half_a_minute():
    clock = Clock()
    display, output = open_display(clock, is_terminal=False)
    with display:
        display.start_phase("training", num_steps=100)
        for step in (1, 2, 3, 4):
            clock.now_s += 20.0
            display.update(metrics=line(step, clock), evaluations=(), status="")
    # 20 s: not yet; 40 s: printed; 60 s: 20 s later, not yet; 80 s: printed.
    assert [text.split(":")[0] for text in output.getvalue().splitlines()[1:]] == [
        "training 2/100",
        "training 4/100",
    ]


def test_without_a_terminal_nothing_new_prints_nothing():
    clock = Clock()
    display, output = open_display(clock, is_terminal=False)
    with display:
        display.start_phase("starting servers", num_steps=None)
        for status in ("0/2 healthy", "0/2 healthy", "1/2 healthy", "1/2 healthy"):
            clock.now_s += 31.0
            display.update(metrics=None, evaluations=(), status=status)
    assert output.getvalue().splitlines() == [
        "starting servers: started",
        "starting servers: 0/2 healthy",
        "starting servers: 1/2 healthy",
    ]


def test_a_terminal_shows_phases_bar_numbers_and_status():
    clock = Clock()
    display, output = open_display(clock, is_terminal=True)
    with display:
        train(display, clock, num_steps=4, step_s=1.0)
    shown = output.getvalue()
    for expected in (*PHASES, "4/4", "25.0% (v0)", "0.500", "1,234", "2 servers"):
        assert expected in shown


def test_each_held_out_set_has_its_latest_score():
    clock = Clock()
    display, output = open_display(clock, is_terminal=False)
    code = {**EVALUATION, "set": "code", "place": 1, "pass@1": 0.5}
    with display:
        display.start_phase("training", num_steps=9)
        display.update(metrics=line(1, clock), evaluations=[code], status="")
        aime = {**EVALUATION, "set": "aime24", "place": 0, "version": 7}
        display.update(metrics=None, evaluations=[aime], status="")
    assert "aime24 pass@1 25.0% (v7), code pass@1 50.0% (v0)" in output.getvalue().splitlines()[-1]


def test_the_cold_start_shows_its_loss():
    clock = Clock()
    display, output = open_display(clock, is_terminal=False)
    with display:
        display.start_phase("cold start", num_steps=1)
        metrics = {"step": 1, "time": clock(), "sft/loss": 1.5, "sft/tokens_per_s": 2000.0}
        display.update(metrics=metrics, evaluations=(), status="")
    assert "cold start 1/1: loss 1.5000, learner tok/s 2,000" in output.getvalue()


def test_lines_older_than_the_phase_do_not_count_as_pace():
    clock = Clock()
    display, output = open_display(clock, is_terminal=False)
    yesterday = line(40, clock) | {"time": clock() - 86400.0}
    with display:
        display.start_phase("training", num_steps=100)
        display.update(metrics=yesterday, evaluations=(), status="")
        for step in range(41, 51):
            clock.now_s += 2.0
            display.update(metrics=line(step, clock), evaluations=(), status="")
    assert "training 50/100" in output.getvalue()
    assert "1:40 left" in output.getvalue()  # 50 steps of 2 s


def test_time_left_is_the_pace_times_the_steps_left_minus_what_has_passed():
    timer = StepTimer(window=8)
    assert timer.remaining_s(10, 0.0) is None
    timer.mark(1, 10.0)
    timer.mark(3, 14.0)
    assert timer.remaining_s(10, 14.0) == 14.0  # 7 steps of 2 s
    assert timer.remaining_s(10, 15.0) == 13.0
    assert timer.remaining_s(10, 99.0) == 0.0


def test_a_step_back_starts_the_pace_over():
    timer = StepTimer(window=8)
    timer.mark(9, 0.0)
    timer.mark(4, 100.0)
    assert timer.remaining_s(10, 100.0) is None


@pytest.mark.parametrize(("seconds", "expected"), [(5, "0:05"), (65, "1:05"), (3661, "1:01:01")])
def test_clock_times_are_written_as_people_read_them(seconds, expected):
    assert format_clock(seconds) == expected


def test_a_follower_gives_each_complete_line_once(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    follower = JsonlFollower(path)
    assert follower.read_new() == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert follower.read_new() == [{"step": 1}, {"step": 2}]
    assert follower.read_new() == []
    with path.open("a") as file:
        file.write('p": 3}\n')
    assert follower.read_new() == [{"step": 3}]


def test_a_follower_starts_over_when_the_file_was_cut(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    follower = JsonlFollower(path)
    follower.read_new()
    path.write_text('{"step": 1}\n')
    assert follower.read_new() == [{"step": 1}]


def test_a_follower_starts_over_when_the_file_was_replaced_and_grew(tmp_path: Path):
    path, replacement = tmp_path / "metrics.jsonl", tmp_path / "new"
    path.write_text('{"step": 1}\n')
    follower = JsonlFollower(path)
    follower.read_new()
    replacement.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3)))
    replacement.replace(path)
    assert [record["step"] for record in follower.read_new()] == [1, 2, 3]
