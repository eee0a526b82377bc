"""What the controller knows of a job, and what it is asked to do."""

import re
import subprocess
from datetime import datetime
from pathlib import Path

from megatron_rl.errors import SlurmError
from megatron_rl.planning.batch_script import RUN_FOLDER_COMMENT

_FIELD = re.compile(r"(\w+)=(\S*)")
_TIMEOUT_S = 30.0


def job_facts(job: str) -> dict[str, str]:
    """Return the fields of ``scontrol show job``; of a heterogeneous job, those of its leader.

    Raises:
        SlurmError: the controller does not answer, or knows no such job.
    """
    first, *_ = _scontrol("show", "job", "--oneliner", job).splitlines()
    return dict(_FIELD.findall(first))


def end_time(job: str) -> float | None:
    """Return when the job's time is up, in seconds since the epoch; None without a limit."""
    text = job_facts(job)["EndTime"]
    if text in ("Unknown", "NONE"):
        return None
    return datetime.fromisoformat(text).timestamp()  # Slurm prints local time


def run_folder_of(job: str) -> Path:
    """Return the run folder of a job that ``submit.py`` submitted.

    Raises:
        SlurmError: the job is unknown, or says nothing of a run folder.
    """
    facts = job_facts(job)
    if "Comment" not in facts or not facts["Comment"].startswith(RUN_FOLDER_COMMENT):
        raise SlurmError(f"job {job} does not name its run folder; give the folder itself")
    return Path(facts["Comment"].removeprefix(RUN_FOLDER_COMMENT))


def requeue(job: str) -> None:
    """Queue the job again; Slurm then ends what still runs of it.

    Raises:
        SlurmError: it was submitted with --no-requeue, or the controller does not answer.
    """
    _scontrol("requeue", job)


def _scontrol(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["scontrol", *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except FileNotFoundError as error:
        raise SlurmError("there is no scontrol here; run this where Slurm is installed") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"scontrol did not answer within {_TIMEOUT_S} s") from error
    if done.returncode:
        raise SlurmError(f"scontrol {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
