"""The steps of a Slurm job: started from planned roles, ended together."""

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from megatron_rl.config import RunConfig
from megatron_rl.lifetime import STEP_VARIABLE
from megatron_rl.planning.roles import Role
from megatron_rl.planning.srun import srun_command
from megatron_rl.programs.job_record import JobRecord
from megatron_rl.run_dir import RunDir
from megatron_rl.slurm.allocation import Job
from megatron_rl.slurm.step import Step

_ASK_AGAIN_S = 1.0
_POLL_S = 0.1
# What a batch script inherits about itself would be read by srun as options of a step.
_INHERITED = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE"),
    *("SLURM_CPU_BIND", "SLURM_GPUS", "SLURM_GPUS_PER_NODE", "SLURM_TRES_PER_TASK"),
)


class JobSteps:
    """Leaving the context ends every step that still runs."""

    def __init__(
        self, config: RunConfig, job: Job, record: JobRecord, *, environment: Mapping[str, str]
    ) -> None:
        self._config = config
        self._job = job
        self._record = record
        self._environment = environment
        run_dir = RunDir(config.run_dir)
        self._config_file = run_dir.config
        self._logs = run_dir.attempt_logs(job.restarts)
        self._exits = self._logs / "exits"
        self._running: list[Step] = []

    def __enter__(self) -> Self:
        self._exits.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_all()

    @property
    def logs(self) -> Path:
        """Where the programs of this life of the job write."""
        return self._logs

    def start(self, role: Role) -> Step:
        """Start a role, again if it ran before."""
        launch = self._config.launch
        container = launch.container
        python = str(launch.python) if container.runtime == "none" else container.python
        command = [python, "-m", "megatron_rl", role.program, str(self._config_file), *role.options]
        step = Step(
            role.program,
            role.name,
            srun_command(
                role,
                command,
                logs=str(self._logs),
                exits=str(self._exits),
                container=container,
            ),
            self._environment_of(role),
            logs=self._logs,
            exits=self._exits,
        )
        self._running.append(step)
        self._record.note_start(role, step)
        return step

    def stop_all(self) -> None:
        """Ask all to stop, wait ``launch.teardown_s``, give up on what is left."""
        deadline = time.monotonic() + self._config.launch.teardown_s
        asked = 0.0
        while time.monotonic() < deadline and any(step.poll() is None for step in self._running):
            if time.monotonic() - asked > _ASK_AGAIN_S:
                asked = time.monotonic()
                for step in self._running:
                    step.ask_to_stop()
            self._record.beat()
            time.sleep(_POLL_S)
        for step in self._running:
            step.kill()
        self._running.clear()

    def _environment_of(self, role: Role) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if key not in _INHERITED}
        rendezvous = {}
        if role.kind == "learner":
            # Rank 0 is on the first node of the job, where this process runs too.
            rendezvous = {"MASTER_ADDR": role.nodes[0], "MASTER_PORT": str(_free_port())}
        return {
            **inherited,
            **self._environment,
            **rendezvous,
            **role.environment,
            STEP_VARIABLE: role.name,
        }


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])
