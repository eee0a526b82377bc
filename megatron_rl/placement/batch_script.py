"""Batch script of a run: sbatch options from the configuration, then one command. Pure."""

import re
import shlex
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from megatron_rl.config import LaunchConfig, RunConfig
from megatron_rl.errors import ConfigError
from megatron_rl.placement.cluster import component_cpus, component_sizes
from megatron_rl.placement.roles import Kind
from megatron_rl.placement.srun import gpu_option

_COMMENT = "megatron_rl:"
"""Start of a submitted job's comment; its run folder follows, to be found by the job id."""
# Options with a setting of their own; a second value here would silently win.
_OWN = {
    "nodes": "launch.nodes",
    "gpus-per-node": "launch.gpus_per_node",
    "cpus-per-task": "launch.cpus_per_node",
    "ntasks-per-node": "learner.num_processes",
    "time": "launch.time",
    "job-name": "launch.job_name",
    "partition": "launch.partition",
    "account": "launch.account",
    "qos": "launch.qos",
    "signal": "launch.signal_s",
    "requeue": "launch.when_time_is_up",
    "no-requeue": "launch.when_time_is_up",
    "output": "run_dir",
    "comment": "run_dir",
}


def batch_script(config: RunConfig, command: Sequence[str]) -> str:
    """Return the batch script.

    Args:
        command: command that runs on the first node, with the configuration and its overrides.

    Raises:
        ConfigError: launch.sbatch sets what has a key of its own.
    """
    options = [f"#SBATCH {_quoted(option)}" for option in sbatch_options(config)]
    # A time-limit signal while modules load must not end the script; the program handles it later.
    # A module's or a site's lines may use variables that are not set.
    lines = [
        "#!/bin/bash",
        *options,
        "trap '' USR1",
        "set -eo pipefail",
        *setup_lines(config.launch),
        "set -u",
    ]
    lines += ["# exec: signals that Slurm sends to the batch script reach the program itself."]
    lines += [f"exec {shlex.join(command)}"]
    return "\n".join(lines) + "\n"


def job_name(config: RunConfig) -> str:
    """Return the name of the job; jobs of one name and user wait for each other in a chain."""
    if config.launch.job_name is not None:
        return config.launch.job_name
    folder = config.run_dir.absolute()
    readable = re.sub(r"[^A-Za-z0-9.-]+", "-", folder.name)
    # Runs of one name in different folders are not one chain.
    return f"{readable}-{zlib.crc32(str(folder).encode()):08x}"


def comment_of(run_dir: Path) -> str:
    """Return a job's comment with its run folder; no spaces, for scontrol's fields end at one."""
    return f"{_COMMENT}{quote(str(run_dir))}"


def run_folder_in(comment: str) -> Path | None:
    """Return the run folder of a comment by :func:`comment_of`, None for another comment."""
    if not comment.startswith(_COMMENT):
        return None
    return Path(unquote(comment.removeprefix(_COMMENT)))


def _quoted(option: str) -> str:
    """Quote the value of an option for sbatch, if it needs quotes."""
    name, is_valued, value = option.partition("=")
    return f"{name}={shlex.quote(value)}" if is_valued and " " in value else option


def log_pattern(run_dir: Path) -> str:
    """Return where a job's own output goes, in sbatch's notation."""
    return f"{run_dir}/logs/slurm-%j.log"


def setup_lines(launch: LaunchConfig) -> list[str]:
    """Return the shell lines that make the environment of the job."""
    return [*(f"module load {shlex.quote(module)}" for module in launch.modules), *launch.setup]


def sbatch_options(config: RunConfig) -> Iterator[str]:
    """Yield the job's options of sbatch, with ``hetjob`` between components.

    Raises:
        ConfigError: launch.sbatch sets what has a key of its own.
    """
    launch = config.launch
    yield f"--job-name={job_name(config)}"
    yield f"--output={log_pattern(config.run_dir)}"
    yield "--open-mode=append"
    yield f"--comment={comment_of(config.run_dir)}"
    yield "--requeue" if launch.when_time_is_up == "requeue" else "--no-requeue"
    yield f"--signal=B:USR1@{launch.signal_s}"
    for index, (kind, size) in enumerate(component_sizes(config).items()):
        if index:
            yield "hetjob"
        yield from _component(launch, kind, size, cpus=component_cpus(config, kind))


def _component(launch: LaunchConfig, kind: Kind, size: int, *, cpus: int | None) -> Iterator[str]:
    """Yield the options that each component of a heterogeneous job needs."""
    yield f"--nodes={size}"
    # A node that dies ends the servers on it, and not the run.
    yield "--no-kill"
    yield f"--time={launch.time}"
    yield "--ntasks-per-node=1"
    partition = launch.partition
    if kind == "rollout" and launch.rollout_partition is not None:
        partition = launch.rollout_partition
    if partition is not None:
        yield f"--partition={partition}"
    if launch.gpus_per_node and kind != "rollout":
        yield gpu_option(launch.gpus_per_node, launch.gpu_gres)
    if cpus is None:
        yield "--exclusive"
    else:
        yield f"--cpus-per-task={cpus}"
    for name, value in (("account", launch.account), ("qos", launch.qos)):
        if value is not None:
            yield f"--{name}={value}"
    yield from _named(launch.sbatch)


def _named(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        if name in _OWN:
            raise ConfigError(f"launch.sbatch.{name} ({value}): set {_OWN[name]} instead")
        if value is True:
            yield f"--{name}"
        elif value is not False:
            yield f"--{name}={value}"
