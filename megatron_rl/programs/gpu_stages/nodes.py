"""Nodes of a Slurm job: an all-reduce over all of them, as one step of srun."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from megatron_rl.config import ContainerConfig, RunConfig, resolve
from megatron_rl.errors import ProgramError
from megatron_rl.placement.gpu_environment import LEARNER_DEFAULTS
from megatron_rl.placement.node_facts import ALL_REDUCE_RESULT
from megatron_rl.placement.roles import Role
from megatron_rl.placement.srun import StepSettings, srun_command
from megatron_rl.placement.step_environment import inherited_by_steps
from megatron_rl.process_lifetime import STEP_VARIABLE
from megatron_rl.programs.processes.children import Supervisor
from megatron_rl.programs.processes.ports import rendezvous_port
from megatron_rl.programs.processes.ranks import rank_environment
from megatron_rl.programs.processes.run_folder import write_config
from megatron_rl.programs.stage_runs.process import hidden_gpus
from megatron_rl.programs.stage_runs.result import Figure, Outcome
from megatron_rl.programs.stage_runs.stage import Place
from megatron_rl.run_dir import RunDir
from megatron_rl.slurm.allocation import read_job

_PROGRAM, _STEP = "all-reduce", "all_reduce"
_TWIN_TASKS = 2
_POLL_S = 0.05
_NO_JOB = (
    "this is one machine; sbatch --nodes=2 launchers/slurm/gpu_check.sbatch looks at two nodes"
)


def check(place: Place) -> Outcome:
    """Sum over the nodes of the job this runs in, one task on each."""
    config = _config(place)
    names = _nodes()
    if len(names) > 1:
        _by_srun(config, names, place)
        notes = [f"one task on each of {', '.join(names)}"]
    elif place.is_rehearsal:
        _by_hand(config, place)
        notes = [f"CPU twin: {_TWIN_TASKS} tasks on this machine, started as srun starts them"]
    else:
        return Outcome(skipped=_NO_JOB)
    found = json.loads((RunDir(config.run_dir).preflight / ALL_REDUCE_RESULT).read_text())
    return Outcome(
        figures=[
            Figure(name="nodes", value=found["nodes"]),
            Figure(name="all-reduce", value=found["seconds"], unit="s"),
            Figure(name="bandwidth of a node", value=found["gb_s"], unit="GB/s"),
        ],
        notes=notes,
    )


def _nodes() -> list[str]:
    """Return the nodes of this batch job; none outside one."""
    if "SLURM_JOB_ID" not in os.environ:
        return []
    return [node.name for node in read_job(os.environ, gpus_per_node=0).nodes]


def _config(place: Place) -> RunConfig:
    """Write the configuration of a run in the stage's folder, whose preflight this is."""
    config = resolve(
        {
            "run_dir": place.folder / "run",
            "num_steps": 1,
            "model": {"path": place.folder / "none"},
            "data": {"train": place.folder / "none"},
        }
    )
    write_config(config)
    return config


def _arguments(config: RunConfig) -> list[str]:
    return [_PROGRAM, str(RunDir(config.run_dir).config)]


def _by_srun(config: RunConfig, names: Sequence[str], place: Place) -> None:
    role = Role(
        name=_STEP,
        program=_PROGRAM,
        kind="learner",
        nodes=tuple(names),
        tasks=len(names),
        gpus_per_node=min(1, len(place.gpus)),
        cpus_per_task=1,
    )
    exits = place.folder / "exits"
    exits.mkdir()
    settings = StepSettings(
        logs=str(place.folder),
        exits=str(exits),
        container=ContainerConfig(),
        gpu_gres=None,
        variables=(),
        container_name="",
    )
    command = [sys.executable, "-m", "megatron_rl", *_arguments(config)]
    environment = {
        **LEARNER_DEFAULTS,
        **inherited_by_steps(os.environ),
        "MASTER_ADDR": names[0],
        "MASTER_PORT": str(rendezvous_port("")),
        STEP_VARIABLE: _STEP,
    }
    done = subprocess.run(
        srun_command(role, command, settings), env=environment, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        logs = "\n".join(_tail(path) for path in sorted(place.folder.glob(f"{_STEP}_*.log")))
        raise ProgramError(
            _PROGRAM,
            "the nodes cannot talk to each other; check NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME "
            f"of the job (srun ended with exit code {done.returncode})\n{logs}",
        )


def _by_hand(config: RunConfig, place: Place) -> None:
    """Start the tasks here, with the variables that srun sets."""
    port = rendezvous_port()
    with Supervisor(grace_s=1.0) as supervisor:
        tasks = [
            supervisor.start(
                _PROGRAM,
                f"task {rank}",
                _arguments(config),
                log=place.folder / f"{_STEP}_{rank}.log",
                environment=rank_environment(rank, _TWIN_TASKS, port)
                | hidden_gpus(place)
                | {"SLURM_PROCID": str(rank), "SLURM_NTASKS": str(_TWIN_TASKS)},
            )
            for rank in range(_TWIN_TASKS)
        ]
        while any(task.poll() is None for task in tasks):
            time.sleep(_POLL_S)
        for task in tasks:
            if task.poll() != 0:
                raise task.failure()


def _tail(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines()[-10:]
    return "\n".join([f"{path}:", *lines])
