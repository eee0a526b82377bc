"""Nemo-run experiment of a job: one task on the first node, which starts all others.

The only importer of nemo_run. What its generated script lacks is made up for here: it has no trap,
hands no signals on, and replaces the text ``/nemo_run`` wherever it finds it.
"""

import contextlib
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nemo_run
from invoke.exceptions import UnexpectedExit
from nemo_run.config import RUNDIR_NAME, get_nemorun_home
from nemo_run.core.execution.slurm import SlurmJobDetails

from megatron_rl.config import LaunchConfig, RunConfig
from megatron_rl.errors import SlurmError
from megatron_rl.placement.batch_script import job_name, log_pattern, sbatch_options, setup_lines

_POLL_S = 1
_PID_FILE = f"/{RUNDIR_NAME}/supervisor.pid"
# Of the one task: on the first node, sharing all it has with the steps that it starts.
_SRUN_ARGS = (
    "--overlap",
    "--relative=0",
    "--nodes=1",
    "--ntasks=1",
    "--mem=0",
    "--open-mode=append",
)


@dataclass(kw_only=True)
class RunFolderLogs(SlurmJobDetails):
    """Has the task write where a job submitted without nemo-run writes."""

    @property
    def srun_stdout(self) -> Path:
        """The task's log, in Slurm's notation."""
        return Path(log_pattern(Path(str(self.folder)).parent))

    @property
    def ls_term(self) -> str:
        """What ``nemo experiment logs`` looks for."""
        return str(self.srun_stdout)


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    """A job that Slurm has taken."""

    id: str
    """Of the experiment."""
    job: str
    log: str
    script_log: str
    """Of the generated batch script."""


def batch_script(config: RunConfig, command: Sequence[str]) -> str:
    """Return the script that nemo-run generates, and that of its task; nothing is submitted."""
    name = _new_id(config)
    with _experiment(name, config, command) as experiment:
        experiment.dryrun(log=False, delete_exp_dir=False)
    folder = Path(get_nemorun_home()) / "experiments" / job_name(config) / name
    (script,) = folder.glob("*_sbatch.sh")
    (task,) = folder.glob("*/scripts/*.sh")
    text = f"{script.read_text()}\n\n# {task}\n{task.read_text()}"
    shutil.rmtree(folder)
    return text


def submit(config: RunConfig, command: Sequence[str]) -> Submitted:
    """Have nemo-run submit the job.

    Args:
        command: what runs on the first node, see ``submit.job_command``.

    Raises:
        SlurmError: sbatch refused it.
    """
    config.run_dir.joinpath("logs").mkdir(parents=True, exist_ok=True)
    name = _new_id(config)
    with _experiment(name, config, command) as experiment:
        try:
            experiment.run(detach=True)
        except UnexpectedExit as error:
            raise SlurmError(error.result.stderr.strip()) from error
        (group,) = experiment.jobs
    job = group.handle.rpartition("/")[2]
    logs = group.executor.job_details
    return Submitted(
        id=name,
        job=job,
        log=str(logs.srun_stdout).replace("%j", job),
        script_log=str(logs.stdout).replace("%j", job),
    )


def _new_id(config: RunConfig) -> str:
    return f"{job_name(config)}_{time.time_ns()}"  # nemo-run parses it


@contextlib.contextmanager
def _experiment(
    name: str, config: RunConfig, command: Sequence[str]
) -> Iterator[nemo_run.Experiment]:
    experiment = nemo_run.Experiment(
        job_name(config),
        id=name,
        log_level="CRITICAL",  # or it complains wherever there is no sacct
        clean_mode=True,
        enable_goodbye_message=False,
        skip_status_at_exit=True,
    )
    with experiment:
        # A group of one: only a group's tasks run in the background, where bash heeds its traps.
        experiment.add([_task(command)], executor=_executor(config), name="job")
        yield experiment


def _task(command: Sequence[str]) -> nemo_run.Script:
    """Return what the one task runs, in the folder the job is submitted from."""
    lines = [
        f'echo "$$" > {_PID_FILE}',
        _hidden(f"cd {shlex.quote(str(Path.cwd()))}"),
        _hidden(f"exec {shlex.join(command)}"),
    ]
    return nemo_run.Script(inline="\n".join(lines) + "\n")


def _hidden(line: str) -> str:
    """Keep nemo-run from replacing part of a path of the user's; to the shell it is the same."""
    return line.replace(f"/{RUNDIR_NAME}", f"/{RUNDIR_NAME[0]}''{RUNDIR_NAME[1:]}")


def _executor(config: RunConfig) -> nemo_run.SlurmExecutor:
    launch = config.launch
    return nemo_run.SlurmExecutor(
        account=launch.account,
        job_name_prefix=job_name(config),  # else it is made of the account, which may be None
        nodes=launch.nodes,
        container_image=None,
        packager=nemo_run.Packager(),
        tunnel=nemo_run.LocalTunnel(job_dir=""),
        job_details=RunFolderLogs(
            job_name=job_name(config), folder=str(config.run_dir.absolute() / "logs")
        ),
        srun_args=list(_SRUN_ARGS),
        setup_lines="\n".join(_setup(launch)),
        additional_parameters=_sbatch_parameters(config),
        monitor_group_job_wait_time=_POLL_S,
        poll_estimated_start_time=False,
    )


def _setup(launch: LaunchConfig) -> list[str]:
    """Return lines of the batch script ahead of the task."""
    return [
        "set +vx -euo pipefail",
        *setup_lines(launch),
        "set +eu +o pipefail",
        # Slurm signals whole steps, the clients of those within the task included, which would end
        # servers and rollout. The batch script is on the task's node and tells it alone.
        f"rm -f {_PID_FILE}",
        f"trap 'kill -USR1 \"$(<{_PID_FILE})\"' USR1",
    ]


def _sbatch_parameters(config: RunConfig) -> dict[str, str | bool]:
    """Return the same options that the batch script without nemo-run has, but for its log."""
    parameters: dict[str, str | bool] = {}
    for option in sbatch_options(config):
        name, is_valued, value = option.removeprefix("--").partition("=")
        parameters[name.replace("-", "_")] = value if is_valued else True
    del parameters["output"]
    return parameters
