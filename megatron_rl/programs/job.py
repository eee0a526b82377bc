"""``megatron-rl job``: run everything as steps of the Slurm job whose batch script this is.

Plans roles, looks at every node, then runs cold start, servers, rollout and learner as srun steps.
The first role to die decides: all are ended, and its exit code and last lines are the job's. When
time is up the learner saves and exits with 75; the job queues itself again and goes on.
"""

import argparse
import logging
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from megatron_rl.config import RunConfig, planned_stages
from megatron_rl.errors import ConfigError, Interrupted, ProgramError, SlurmError
from megatron_rl.placement.roles import Role, plan_learner, plan_roles
from megatron_rl.placement.table import placement_table
from megatron_rl.programs.builders.model import checked_spec
from megatron_rl.programs.builders.run_report import write_run_report
from megatron_rl.programs.campaign.current_stage import (
    final_stage,
    is_run_over,
    naming,
    stages_left,
)
from megatron_rl.programs.checks.planned_servers import check_planned_servers
from megatron_rl.programs.checks.validate_run import validate_run
from megatron_rl.programs.processes.disk_errors import disk_errors_named
from megatron_rl.programs.processes.run_folder import is_complete, prepare_run_folder
from megatron_rl.programs.processes.server_restarts import ServerRestarts
from megatron_rl.programs.processes.stopping import DEADLINE_VARIABLE
from megatron_rl.programs.slurm_job.preflight import check_nodes
from megatron_rl.programs.slurm_job.progress import JobProgress
from megatron_rl.programs.slurm_job.record import JobRecord, refuse_other_job
from megatron_rl.programs.slurm_job.signals import JobSignals
from megatron_rl.programs.slurm_job.steps import JobSteps
from megatron_rl.registry import read_policy_state
from megatron_rl.run_dir import RunDir
from megatron_rl.slurm.allocation import Job, read_job
from megatron_rl.slurm.control import end_time, requeue
from megatron_rl.slurm.step import EXIT_RESUME, Step
from megatron_rl.stage_record import read_stage_ends

_LOG = logging.getLogger(__name__)
_POLL_S = 0.2
_DRAIN_S = 1.0
_GRACEFUL_EXIT_CODES = (EXIT_RESUME, 128 + signal.SIGTERM, 128 + signal.SIGUSR1)
"""Exit codes of programs that were asked to end by a signal."""
_REQUEUE_WAIT_S = 120.0
_MAX_IDLE_ATTEMPTS = 2


def main(config: RunConfig, options: argparse.Namespace) -> int:
    """Run to the end and return 0; 75 when time was up and the job is not to queue itself.

    Raises:
        ConfigError, DataError, ModelError: before anything is started. ConfigError as well when
            time was always up before the first step.
        ProgramError: a role failed; says which, with its last lines.
        Interrupted: the job was cancelled.
        SlurmError: Slurm does not answer.
    """
    with JobSignals() as signals:
        job = read_job(os.environ, gpus_per_node=config.launch.gpus_per_node)
        config = _for_several_nodes(config, job)
        run_dir = RunDir(config.run_dir)
        refuse_other_job(run_dir, job, now=time.time())
        if options.only is None and is_complete(final_stage(config)):
            print(f"the run in {config.run_dir} is complete; nothing is left to do", flush=True)
            return 0
        for planned in planned_stages(config):
            with naming(planned):
                validate_run(planned, is_outside=config.launch.container.runtime != "none")
                if options.only is None:
                    roles = plan_roles(planned, job.nodes)
                    check_planned_servers(planned, checked_spec(planned), roles)
        if options.only == "sft" and config.sft is None:
            raise ConfigError("--only sft: the configuration has no [sft] table; add one")
        with disk_errors_named(config.run_dir):
            prepare_run_folder(config)
            code = _run_stages(config, job, signals, only=options.only)
    if code == EXIT_RESUME and config.launch.when_time_is_up == "requeue":
        return _queue_again(job)
    return code


def _run_stages(
    config: RunConfig, job: Job, signals: JobSignals, *, only: Literal["sft"] | None
) -> int:
    """Run one stage after the other; return 0 after the last, 75 when time is up."""
    progress = JobProgress(RunDir(config.run_dir), job)
    for stage in stages_left(config):
        if code := SlurmRun(stage, job, signals, progress).execute(only=only):
            return code
        if only is not None:
            return 0
        for ended in read_stage_ends(RunDir(config.run_dir))[-1:]:
            print(f'stage "{ended.name}" ended at step {ended.end}: {ended.reason}', flush=True)
    write_run_report(config)
    print(f"report: {RunDir(config.run_dir).report}", flush=True)
    return 0


class SlurmRun:
    """One life of the job, or its part in one stage of the run."""

    def __init__(
        self, config: RunConfig, job: Job, signals: JobSignals, progress: JobProgress
    ) -> None:
        self._config = config
        self._job = job
        self._signals = signals
        self._server_roles: Sequence[Role] = ()
        self._learner_up_since: float | None = None
        self._run_dir = RunDir(config.run_dir)
        deadline = end_time(os.environ, job.id)
        self._record = JobRecord(self._run_dir, job, deadline=deadline)
        self._progress = progress
        self._steps = JobSteps(
            config, job, self._record, environment=_environment(config, deadline)
        )
        self._servers = ServerRestarts(
            self._run_dir,
            num_servers=config.generators.num_servers,
            max_restarts=config.generators.max_restarts,
            start=self._start_server,
        )

    def execute(self, *, only: Literal["sft"] | None) -> int:
        """Run every phase that is not done yet, or the cold start alone; return 0 or 75."""
        cold_start = plan_learner(self._config, self._job.nodes, program="sft")
        roles = [cold_start] if only == "sft" else plan_roles(self._config, self._job.nodes)
        print(placement_table(roles), flush=True)
        prepare_run_folder(self._config)
        with self._record, self._steps:
            self._check_nodes(roles)
            if only == "sft":
                code = self._cold_start(cold_start, others=[])
            else:
                code = self._run_all(roles, cold_start)
            if code == EXIT_RESUME:
                self._check_progress()
            is_over = only is not None or is_run_over(self._config)
            self._record.enter(
                "time is up" if code else "done" if is_over else "between two stages"
            )
        return code

    def _check_progress(self) -> None:
        """Refuse to queue for ever what never has the time to train a step."""
        idle = self._progress.idle_attempts()
        self._record.note_idle_attempts(idle)
        launch = self._config.launch
        if launch.when_time_is_up == "requeue" and idle >= _MAX_IDLE_ATTEMPTS:
            raise ConfigError(
                f"time was up {idle} times in a row before a single step was trained, so the job "
                f"does not queue itself again; give it more time (launch.time or sbatch --time), "
                f"or less of it to the end (launch.signal_s is {launch.signal_s})"
            )

    def _check_nodes(self, roles: Sequence[Role]) -> None:
        if not self._config.launch.preflight:
            return

        def tick() -> None:
            self._signals.raise_if_cancelled()
            self._record.beat()

        self._record.enter("preflight")
        check_nodes(self._config, self._job.nodes, roles, self._steps, tick=tick)

    def _run_all(self, roles: Sequence[Role], cold_start: Role) -> int:
        learner, *servers, rollout_role = roles
        if code := self._choose_start(cold_start, servers[0]):
            return code
        self._server_roles = servers
        # Servers load during the cold start, on placeholder weights, and rollout its data.
        self._servers.start_all()
        rollout = self._steps.start(rollout_role)
        return self._cold_start(cold_start, others=[rollout]) or self._train(learner, rollout)

    def _choose_start(self, cold_start: Role, server: Role) -> int:
        """Run the cold start, and have evaluation choose its model on the first server's node."""
        sft = self._config.sft
        if sft is None or sft.select != "evaluation" or self._run_dir.is_cold_start_done:
            return 0
        if code := self._cold_start(cold_start, others=[]):
            return code
        self._record.enter("choosing the cold start's model")
        role = replace(server, name="select", program="select", options=())
        step = self._steps.start(role)
        self._signals.forward_to([step])
        return self._wait_for(step, others=[])

    def _cold_start(self, role: Role, *, others: Sequence[Step]) -> int:
        """Run ``sft`` where the configuration asks for it and it is not done."""
        if self._config.sft is None or self._run_dir.is_cold_start_done:
            return 0
        self._record.enter("cold start")
        step = self._steps.start(role)
        self._signals.forward_to([step])
        return self._wait_for(step, others=others)

    def _train(self, learner: Role, rollout: Step) -> int:
        self._record.enter("starting servers")
        step = self._steps.start(learner)
        self._signals.forward_to([step])
        code = self._wait_for(step, others=[rollout])
        if code or not is_run_over(self._config):
            return code
        # Rollout has the last evaluation to end with, which is of the run's last version.
        return self._wait_for(rollout, others=[])

    def _wait_for(self, awaited: Step, *, others: Sequence[Step]) -> int:
        """Return 0 or 75 of ``awaited``; raise the failure of any step that fails meanwhile."""
        while True:
            self._signals.raise_if_cancelled()
            self._signals.remind()
            code = awaited.poll()
            if code in (0, EXIT_RESUME):
                return code
            # When one rank is lost, those that talk to it fail too.
            for step in (awaited, *others):
                if step.poll() not in (None, 0):
                    self._raise_failure(step, is_awaited=step is awaited)
            if self._server_roles:
                self._servers.watch()
            self._note_state()
            time.sleep(_POLL_S)

    def _raise_failure(self, step: Step, *, is_awaited: bool) -> None:
        """Raise how a step failed, unless the whole job was told to end meanwhile.

        Slurm tells all tasks of a job that is preempted; tasks with nothing to save end first.
        """
        time.sleep(_DRAIN_S)  # other tasks of the step leave word as well, and so may Slurm
        self._signals.raise_if_cancelled()
        if is_awaited or step.poll() not in _GRACEFUL_EXIT_CODES:
            raise step.failure()
        self._signals.note_time_is_up()

    def _note_state(self) -> None:
        if self._record.state == "starting servers":
            state = read_policy_state(self._run_dir)
            if state is not None and state.servers:
                self._record.enter("training")
            elif state is not None:
                self._check_patience()
        self._record.beat()

    def _check_patience(self) -> None:
        """Refuse to wait until the job's limit for servers that cannot be reached."""
        now, limit_s = time.monotonic(), self._config.launch.servers_timeout_s
        if self._learner_up_since is None:
            self._learner_up_since = now
        if now - self._learner_up_since > limit_s:
            raise ProgramError(
                "serve",
                f"the learner is up for {limit_s:.0f} s (launch.servers_timeout_s) and has given "
                f"weights to no server; see serve_*.log and learn_0.log in {self._steps.logs}: "
                "servers that never become healthy need a longer time, those that do an address "
                "that the learner's node can reach",
            )

    def _start_server(self, index: int) -> Step:
        return self._steps.start(self._server_roles[index])


def _for_several_nodes(config: RunConfig, job: Job) -> RunConfig:
    """Have servers listen where the other nodes of the job reach them."""
    if len(job.nodes) == 1 or config.generators.host != "127.0.0.1":
        return config
    generators = config.generators.model_copy(update={"host": "hostname"})
    return config.model_copy(update={"generators": generators})


def _environment(config: RunConfig, deadline: float | None) -> dict[str, str]:
    """Return what every program gets on top of the job's own environment."""
    time_limit = {} if deadline is None else {DEADLINE_VARIABLE: str(deadline)}
    return {**config.launch.env, **time_limit}


def _queue_again(job: Job) -> int:
    """Ask Slurm to queue the job again, and wait to be ended by it."""
    # Slurm goes on announcing the limit, and no handler is left.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    print(f"job {job.id}: time is up; it queues itself again and goes on", flush=True)
    try:
        requeue(job.id)
    except SlurmError as error:
        raise Interrupted(f"time is up, and the job cannot queue itself again: {error}") from error
    time.sleep(_REQUEUE_WAIT_S)
    return EXIT_RESUME
