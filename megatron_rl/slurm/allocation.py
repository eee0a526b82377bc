"""Slurm allocation of this job: its nodes, read from the environment."""

import re
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from megatron_rl.errors import ConfigError, SlurmError
from megatron_rl.placement.roles import HET_GROUPS, Node

_CPUS = re.compile(r"(\d+)(?:\(x(\d+)\))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """The job and its nodes, in Slurm's order; the batch script runs on the first."""

    id: str
    restarts: int
    """How often the job was requeued; 0 in its first life."""
    nodes: tuple[Node, ...]


def read_job(environment: Mapping[str, str], *, gpus_per_node: int) -> Job:
    """Return the job of this batch script.

    Args:
        environment: of the batch script.
        gpus_per_node: GPUs that a step may use; rollout's own node in a heterogeneous job has none.

    Raises:
        ConfigError: this is no Slurm job, or a node has fewer GPUs than that.
        SlurmError: Slurm does not name the nodes.
    """
    if "SLURM_JOB_ID" not in environment:
        raise ConfigError(
            "this is no Slurm job (SLURM_JOB_ID is not set); submit it with "
            "sbatch launchers/slurm/train.sbatch, or run megatron-rl train on one machine"
        )
    _check_gpus(environment, gpus_per_node)
    if "SLURM_HET_SIZE" not in environment:
        nodes = _nodes(environment, suffix="", gpus=gpus_per_node, het_group=None)
    else:
        size = int(environment["SLURM_HET_SIZE"])
        if size != len(HET_GROUPS):
            raise ConfigError(
                f"the heterogeneous job has {size} components; it needs one each for "
                + ", ".join(HET_GROUPS)
            )
        nodes = [
            node
            for group, kind in enumerate(HET_GROUPS)
            for node in _nodes(
                environment,
                suffix=f"_HET_GROUP_{group}",
                gpus=0 if kind == "rollout" else gpus_per_node,
                het_group=group,
            )
        ]
    restarts = environment["SLURM_RESTART_COUNT"] if "SLURM_RESTART_COUNT" in environment else "0"
    return Job(id=environment["SLURM_JOB_ID"], restarts=int(restarts), nodes=tuple(nodes))


def expand_cpus(counts: str) -> list[int]:
    """Return the CPUs of every node; ``8(x2),4`` is [8, 8, 4]."""
    expanded = []
    for item in counts.split(","):
        match = _CPUS.fullmatch(item)
        assert match is not None, counts
        cpus, times = match.groups()
        expanded += [int(cpus)] * int(times or 1)
    return expanded


def _nodes(
    environment: Mapping[str, str], *, suffix: str, gpus: int, het_group: int | None
) -> list[Node]:
    names = _expand_names(environment[f"SLURM_JOB_NODELIST{suffix}"])
    cpus = expand_cpus(environment[f"SLURM_JOB_CPUS_PER_NODE{suffix}"])
    return [
        Node(name=name, gpus=gpus, cpus=count, het_group=het_group)
        for name, count in zip(names, cpus, strict=True)
    ]


def _expand_names(nodelist: str) -> list[str]:
    """Have Slurm itself read its compressed list of names."""
    command = ["scontrol", "show", "hostnames", nodelist]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise SlurmError("there is no scontrol here; run this where Slurm is installed") from error
    except subprocess.CalledProcessError as error:
        raise SlurmError(f"{shlex.join(command)}: {error.stderr.strip()}") from error
    return done.stdout.split()


def _check_gpus(environment: Mapping[str, str], wanted: int) -> None:
    there = environment["SLURM_GPUS_ON_NODE"] if "SLURM_GPUS_ON_NODE" in environment else "0"
    if int(there) < wanted:
        raise ConfigError(
            f"launch.gpus_per_node is {wanted}, but the job has {there} GPUs on its first node; "
            f"submit it with --gpus-per-node={wanted}, or set launch.gpus_per_node (0 for CPUs)"
        )
