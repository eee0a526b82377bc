"""Requests to the Slurm controller, with a program that stands for scontrol."""

import os
import time
from pathlib import Path

import pytest

from megatron_rl.errors import SlurmError
from megatron_rl.placement.batch_script import comment_of
from megatron_rl.slurm import control
from megatron_rl.slurm.control import end_time, requeue, run_folder_of


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch):
    """Write a scontrol of this shell code; return the file in which it may count."""
    count = tmp_path / "count"
    monkeypatch.setattr(control, "_BACKOFF_S", 0.01)

    def write(code: str) -> Path:
        program = tmp_path / "scontrol"
        program.write_text(f"#!/bin/bash\necho x >>{count}\n{code}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        return count

    return write


def test_the_time_limit_of_the_environment_needs_no_controller(scontrol):
    count = scontrol("exit 1")
    assert end_time({"SLURM_JOB_END_TIME": "1795872192"}, "7") == 1795872192.0
    assert not count.exists()


def test_a_users_own_format_of_times_does_not_matter(scontrol, monkeypatch):
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    scontrol(
        "[ $SLURM_TIME_FORMAT = standard ] && when=2026-01-02T03:04:05 || when='Tomorr 02:42'\n"
        'echo "JobId=7 EndTime=$when Comment=(null)"'
    )
    expected = time.mktime((2026, 1, 2, 3, 4, 5, 0, 0, -1))
    assert end_time({}, "7") == expected


def test_a_controller_that_restarts_is_asked_again(scontrol):
    count = scontrol('(( $(wc -l <"${0%scontrol}count") >= 3 ))')
    requeue("7")
    assert len(count.read_text().splitlines()) == 3


def test_a_refusal_is_not_repeated(scontrol):
    count = scontrol('echo "Requested operation is presently disabled" >&2; exit 1')
    with pytest.raises(SlurmError, match="presently disabled"):
        requeue("7")
    assert len(count.read_text().splitlines()) == 1


@pytest.mark.parametrize("folder", ["/runs/one", "/my runs/a b=c", "/runs/100%", "/r\u00e4ume/1"])
def test_the_run_folder_of_a_job_is_found_whatever_it_is_called(scontrol, folder):
    scontrol(f"echo 'JobId=7 Comment={comment_of(Path(folder))} Reason=None'")
    assert run_folder_of("7") == Path(folder)


def test_a_job_that_is_not_ours_names_no_folder(scontrol):
    scontrol("echo 'JobId=7 Comment=thesis Reason=None'")
    with pytest.raises(SlurmError, match="job 7 does not name its run folder"):
        run_folder_of("7")
