"""Slurm controller (scontrol): facts about a job, requeueing it, killing its steps."""

import logging
import os
import re
import subprocess
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from megatron_rl.errors import SlurmError
from megatron_rl.placement.batch_script import run_folder_in

_FIELD = re.compile(r"(\w+)=(\S*)")
_LOG = logging.getLogger(__name__)
_TIMEOUT_S = 30.0
_QUICK_S = 3.0
_FINAL = ("Invalid job id", "disabled", "there is no scontrol", "Access/permission denied")
"""Phrases of answers that a second attempt would not change."""
_ATTEMPTS = 5
_BACKOFF_S = 1.0
"""First pause before another attempt, for a controller that restarts or is busy; doubles."""


def job_facts(job: str) -> dict[str, str]:
    """Return the fields of ``scontrol show job``; of a heterogeneous job, those of its leader.

    Raises:
        SlurmError: the controller does not answer, or knows no such job.
    """
    first, *_ = _scontrol("show", "job", "--oneliner", job).splitlines()
    return dict(_FIELD.findall(first))


def end_time(environment: Mapping[str, str], job: str) -> float | None:
    """Return when the job's time is up, in seconds since the epoch; None without a limit.

    Newer versions of Slurm set the time in the environment; otherwise the controller is asked.
    """
    if "SLURM_JOB_END_TIME" in environment:
        return float(environment["SLURM_JOB_END_TIME"])
    text = job_facts(job)["EndTime"]
    if text in ("Unknown", "NONE"):
        return None
    return datetime.fromisoformat(text).timestamp()  # Slurm prints local time


def run_folder_of(job: str) -> Path:
    """Return the run folder of a job that ``submit.py`` submitted.

    Raises:
        SlurmError: the job is unknown, or its comment names no run folder.
    """
    facts = job_facts(job)
    folder = run_folder_in(facts["Comment"]) if "Comment" in facts else None
    if folder is None:
        raise SlurmError(f"job {job} does not name its run folder; give the folder itself")
    return folder


def requeue(job: str) -> None:
    """Queue the job again; Slurm then ends the tasks of the job that still run.

    Raises:
        SlurmError: the job was submitted with --no-requeue, or the controller does not answer.
    """
    _scontrol("requeue", job)


def kill_steps(job: str) -> None:
    """Send SIGKILL to all tasks of the job but the batch script.

    Best effort: a job does this right before it ends, and Slurm kills the remaining tasks then.
    """
    try:
        listed = _quick("squeue", "--noheader", "--steps", f"--jobs={job}", "--format=%i")
        steps = [step for step in listed.split() if step.rpartition(".")[2].isdecimal()]
        if steps:
            _quick("scancel", "--signal=KILL", *steps)
    except (OSError, subprocess.SubprocessError) as error:
        _LOG.warning("steps of job %s are left to Slurm: %s", job, error)


def _quick(*command: str) -> str:
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=_QUICK_S
    ).stdout


def _scontrol(*arguments: str) -> str:
    """Run scontrol, with further attempts after failures that may heal."""
    for attempt in range(_ATTEMPTS):
        try:
            return _scontrol_once(*arguments)
        except SlurmError as error:
            is_last = attempt == _ATTEMPTS - 1
            if is_last or any(reason in str(error) for reason in _FINAL):
                raise
        time.sleep(_BACKOFF_S * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def _scontrol_once(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["scontrol", *arguments],
            # The user's own format of times may be one that only people can read.
            env=os.environ | {"SLURM_TIME_FORMAT": "standard"},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
    except FileNotFoundError as error:
        raise SlurmError("there is no scontrol here; run this where Slurm is installed") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"scontrol did not answer within {_TIMEOUT_S} s") from error
    if done.returncode:
        raise SlurmError(f"scontrol {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
