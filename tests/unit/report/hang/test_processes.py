import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from megatron_rl.report.hang.processes import RunProcess, command_of, find_processes


def add_process(
    proc: Path, pid: int, words: Sequence[str], *, parent: int = 1, cwd: Path = Path("/"),
    environment: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Write what the system says of a process."""
    folder = proc / str(pid)
    folder.mkdir(parents=True)
    (folder / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in words))
    entries = {} if environment is None else environment
    (folder / "environ").write_bytes(
        b"".join(f"{k}={v}".encode() + b"\0" for k, v in entries.items())
    )
    (folder / "stat").write_text(f"{pid} (python (x)) S {parent} 1 1")
    (folder / "cwd").symlink_to(cwd)


def ours(program: str, config: str, *options: str) -> list[str]:
    return ["/usr/bin/python3.11", "-m", "megatron_rl", program, config, *options]


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    return tmp_path / "proc"


def test_programs_of_the_run_are_found_with_their_ranks(proc: Path, tmp_path: Path):
    run, other = tmp_path / "run", tmp_path / "other"
    for number in (1, 0):
        environment = {"RANK": str(number), "WORLD_SIZE": "2"}
        add_process(proc, 20 + number, ours("learn", f"{run}/config.json"), environment=environment)
    add_process(proc, 30, ours("rollout", "run/config.json"), cwd=tmp_path)
    add_process(proc, 31, ours("learn", f"{other}/config.json"))
    add_process(proc, 32, ours("train", f"{run}/config.json"))
    add_process(proc, 33, ["/bin/sh", "-c", f"python -m megatron_rl learn {run}/config.json"])
    found = find_processes(run, proc=proc)
    assert found == [
        RunProcess(pid=20, program="learn", rank=0, world_size=2),
        RunProcess(pid=21, program="learn", rank=1, world_size=2),
        RunProcess(pid=30, program="rollout", rank=None, world_size=None),
    ]
    assert [process.name for process in found] == ["learn rank 0", "learn rank 1", "rollout"]


def test_a_fork_of_a_program_is_not_another_one(proc: Path, tmp_path: Path):
    add_process(proc, 40, ours("rollout", f"{tmp_path}/config.json"))
    add_process(proc, 41, ours("rollout", f"{tmp_path}/config.json"), parent=40)
    assert [process.pid for process in find_processes(tmp_path, proc=proc)] == [40]


def test_a_program_that_was_started_from_toml_is_told_by_its_run_dir(proc: Path, tmp_path: Path):
    (tmp_path / "run.toml").write_text('run_dir = "runs/one"\n')
    add_process(proc, 50, ours("learn", "run.toml"), cwd=tmp_path)
    moved = ours("learn", "run.toml", "--set", "run_dir=runs/two")
    add_process(proc, 51, moved, cwd=tmp_path, environment={"SLURM_PROCID": "3"})
    assert [p.pid for p in find_processes(tmp_path / "runs/one", proc=proc)] == [50]
    (second,) = find_processes(tmp_path / "runs/two", proc=proc)
    assert (second.pid, second.rank) == (51, 3)


def test_a_process_that_ends_meanwhile_is_passed_over(proc: Path, tmp_path: Path):
    (proc / "60").mkdir()
    assert find_processes(tmp_path, proc=proc) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["/v/bin/python", "/v/bin/megatron-rl", "serve", "c.json"], ["serve", "c.json"]),
        (["python3", "-m", "megatron_rl", "sft", "c.json"], ["sft", "c.json"]),
        (["python3", "-m", "megatron_rl", "learn"], None),
        (["python3", "megatron_rl", "learn", "c.json"], None),
        (["vim", "megatron-rl", "learn", "c.json"], None),
        ([], None),
    ],
)
def test_command_lines_are_read(words: list[str], expected: list[str] | None):
    assert command_of(words) == expected


def test_a_real_process_is_found(tmp_path: Path):
    words = [sys.executable, "-c", "import time; time.sleep(60)", "-m", "megatron_rl", "learn"]
    process = subprocess.Popen(
        [*words, f"{tmp_path}/config.json"], env={**os.environ, "RANK": "1", "WORLD_SIZE": "2"}
    )
    expected = [(process.pid, "learn", 1, 2)]

    def found() -> list[tuple[int, str, int | None, int | None]]:
        return [(p.pid, p.program, p.rank, p.world_size) for p in find_processes(tmp_path)]

    deadline = time.monotonic() + 30
    try:
        # The system knows a process before it knows its command line.
        while found() != expected:
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGSTOP)
        while find_processes(tmp_path)[0].state != "T":
            assert time.monotonic() < deadline
    finally:
        process.kill()
        process.wait()
