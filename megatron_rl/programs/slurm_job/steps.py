"""Steps of a Slurm job: started from planned roles, ended together."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from megatron_rl.config import RunConfig
from megatron_rl.errors import Interrupted
from megatron_rl.placement.gpu_environment import LEARNER_DEFAULTS
from megatron_rl.placement.roles import Role
from megatron_rl.placement.srun import StepSettings, srun_command
from megatron_rl.placement.step_environment import inherited_by_steps
from megatron_rl.process_lifetime import STEP_VARIABLE
from megatron_rl.programs.processes.ports import rendezvous_port
from megatron_rl.programs.processes.run_folder import config_file
from megatron_rl.programs.slurm_job.record import JobRecord
from megatron_rl.run_dir import RunDir
from megatron_rl.slurm.allocation import Job
from megatron_rl.slurm.control import kill_steps
from megatron_rl.slurm.step import KILL_S, Step

_ASK_AGAIN_S = 1.0
_POLL_S = 0.1


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
        self._config_file = config_file(config)
        self._logs = run_dir.attempt_logs(job.id, job.restarts)
        self._exits = self._logs / "exits"
        self._running: list[tuple[Role, Step]] = []

    def __enter__(self) -> Self:
        self._exits.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Interrupted):
            learners = [step for role, step in self._running if role.kind == "learner"]
            self._ask_and_wait(learners, self._config.launch.cancel_grace_s)
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
        config = [str(self._config_file)] if role.reads_config else []
        command = [python, "-m", "megatron_rl", role.program, *config, *role.options]
        step = Step(
            role.program,
            role.name,
            srun_command(role, command, self._settings()),
            self._environment_of(role),
            logs=self._logs,
            exits=self._exits,
        )
        self._running.append((role, step))
        self._record.note_start(role, step)
        return step

    def _settings(self) -> StepSettings:
        launch = self._config.launch
        return StepSettings(
            logs=str(self._logs),
            exits=str(self._exits),
            container=launch.container,
            gpu_gres=launch.gpu_gres,
            variables=list(launch.env),
            container_name=f"megatron_rl_{self._job.id}" if launch.container.unpack_once else "",
        )

    def stop_all(self) -> None:
        """Ask all to stop, wait ``launch.teardown_s``, then have what is left killed at once."""
        steps = [step for _, step in self._running]
        self._ask_and_wait(steps, self._config.launch.teardown_s)
        if any(step.is_running for step in steps):
            for step in steps:
                step.terminate()
            # An srun that ends its step already, since a task failed, hears nothing more.
            kill_steps(self._job.id)
        deadline = time.monotonic() + KILL_S
        for step in steps:
            step.wait(deadline - time.monotonic())
        self._running.clear()

    def _ask_and_wait(self, steps: Sequence[Step], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        asked = 0.0
        while time.monotonic() < deadline and any(step.is_running for step in steps):
            if time.monotonic() - asked > _ASK_AGAIN_S:
                asked = time.monotonic()
                for step in steps:
                    step.ask_to_stop()
            self._record.beat()
            time.sleep(_POLL_S)

    def _environment_of(self, role: Role) -> dict[str, str]:
        rendezvous: dict[str, str] = {}
        defaults: Mapping[str, str] = {}
        if role.kind == "learner":
            defaults = LEARNER_DEFAULTS
            # Rank 0 is on the first node of the job, where this process runs too.
            rendezvous = _rendezvous(role)
        elif role.program == "serve" and len(role.nodes) > 1:
            rendezvous = _rendezvous(role)
        return {
            **defaults,
            **inherited_by_steps(os.environ),
            **self._environment,
            **rendezvous,
            **role.environment,
            STEP_VARIABLE: role.name,
        }


def _rendezvous(role: Role) -> dict[str, str]:
    """Return where the tasks of a step find each other.

    The port is free here. On another first node it may be taken; then the step fails while it
    starts, and a server is started again, with another port.
    """
    return {"MASTER_ADDR": role.nodes[0], "MASTER_PORT": str(rendezvous_port(""))}
