"""Job record ``job.json``: state of the Slurm job of a run, for readers on a login node."""

import json
import logging
import os
import time
from typing import Any, Self

from megatron_rl.errors import ConfigError
from megatron_rl.placement.roles import Role
from megatron_rl.run_dir import RunDir, write_json
from megatron_rl.slurm.allocation import Job
from megatron_rl.slurm.step import Step

_LOG = logging.getLogger(__name__)
_BEAT_S = 5.0
SILENT_S = 60.0
"""The launcher writes every few seconds; after this it is gone."""
ENDED = ("done", "failed", "time is up")
"""States after which a job does nothing more."""


def refuse_other_job(run_dir: RunDir, job: Job, *, now: float) -> None:
    """Raise ConfigError when another job is at work in this run folder.

    Args:
        now: seconds since the epoch.
    """
    if not run_dir.job.exists():
        return
    other = json.loads(run_dir.job.read_text())
    is_alive = other["state"] not in ENDED and now - other["updated"] < SILENT_S
    if other["job"] != job.id and is_alive:
        raise ConfigError(
            f"run_dir ({run_dir.root}) is in use by job {other['job']}, which is {other['state']}; "
            f"wait for its end, scancel {other['job']}, or choose another run_dir"
        )


class JobRecord:
    """The launcher's own account; it is the file's only writer."""

    def __init__(self, run_dir: RunDir, job: Job, *, deadline: float | None) -> None:
        """Describe a life of a job.

        Args:
            deadline: when its time is up, in seconds since the epoch; None without a limit.
        """
        self._path = run_dir.job
        self._facts: dict[str, Any] = {
            "job": job.id,
            "attempt": job.restarts,
            "pid": os.getpid(),
            "nodes": [node.name for node in job.nodes],
            "started": time.time(),
            "deadline": deadline,
            "idle_attempts": 0,
        }
        self._roles: dict[str, tuple[Role, Step, float, int]] = {}
        self._message = ""
        self._written = 0.0
        self.state = "starting"

    def __enter__(self) -> Self:
        self._write()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self.state = "failed"
            self._message = str(error)
        self._write()

    def enter(self, state: str) -> None:
        """Say which phase begins."""
        self.state = state
        print(f"{time.strftime('%H:%M:%S')} {state}", flush=True)
        self._write()

    def note_idle_attempts(self, count: int) -> None:
        """Say how many attempts in a row, this one included, trained nothing."""
        self._facts["idle_attempts"] = count

    def note_start(self, role: Role, step: Step) -> None:
        """Take up a role, or the next life of one."""
        lives = self._roles[role.name][3] + 1 if role.name in self._roles else 0
        self._roles[role.name] = (role, step, time.time(), lives)
        self._write()

    def beat(self) -> None:
        """Show that the job is alive; cheap to call often."""
        if time.time() - self._written > _BEAT_S:
            self._write()

    def _write(self) -> None:
        self._written = time.time()
        roles = [
            {
                "name": name,
                "kind": role.kind,
                "nodes": list(role.nodes),
                "tasks": role.tasks,
                "gpus_per_node": role.gpus_per_node,
                "since": since,
                "restarts": lives,
                "exit_code": step.poll(),
            }
            for name, (role, step, since, lives) in self._roles.items()
        ]
        record = {
            **self._facts,
            "state": self.state,
            "message": self._message,
            "updated": self._written,
            "roles": roles,
        }
        try:
            write_json(self._path, record)
        except OSError as error:  # the job's fate must not depend on its description
            _LOG.error("%s cannot be written: %s", self._path, error.strerror)
