"""What a run needs of its nodes: the verdict on facts that each node found out. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

ALL_REDUCE_RESULT = "all_reduce.json"
"""File in the preflight folder: seconds and GB/s of the learner's nodes."""
MAX_SKEW_S = 2.0
"""Logs of several nodes become unreadable with more, and credentials expire early."""
MIN_SHM_GB = 1.0
"""NCCL and PyTorch's workers pass data through /dev/shm."""
MIN_MEMORY_GB = 2.0
"""What one small program takes."""
MIN_WRITE_MB_S = 5.0
"""A checkpoint or a batch file on anything slower holds up the run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeFacts:
    """What a node found out about itself. Plain JSON."""

    node: str
    versions: Mapping[str, str]
    """Of Python and packages, by name."""
    gpus: int
    """That answer to the driver."""
    memory_gb: float
    """Free for programs."""
    shm_gb: float
    """Free in /dev/shm."""
    write_mb_s: float
    """To the run folder, down to the disk; 0 when it cannot be written."""
    read_mb_s: float
    skew_s: float
    """Of its clock against that of the head node."""
    problems: Sequence[str] = field(default_factory=list)
    """What the node itself knows to be wrong, each with its remedy."""


def find_faults(
    wanted: Mapping[str, int], facts: Mapping[str, NodeFacts], *, timeout_s: float
) -> list[str]:
    """Return a line for each thing that is wrong, naming node and remedy.

    Args:
        wanted: GPUs that the run needs of each node.
        facts: by node; one that is missing did not answer.
        timeout_s: how long nodes had to answer.
    """
    faults = []
    for node, gpus in wanted.items():
        if node not in facts:
            faults.append(
                f"{node}: no answer within {timeout_s:.0f} s; see doctor.srun.log, and leave the "
                f"node out with sbatch --exclude={node}"
            )
            continue
        faults += [f"{node}: {line}" for line in _own_faults(facts[node], gpus)]
    return faults + _differing_versions(facts)


def _own_faults(facts: NodeFacts, gpus: int) -> list[str]:
    faults = list(facts.problems)
    if facts.gpus < gpus:
        faults.append(
            f"{facts.gpus} of {gpus} GPUs answer; see nvidia-smi there, and leave the node out "
            f"with sbatch --exclude={facts.node}"
        )
    if facts.memory_gb < MIN_MEMORY_GB:
        faults.append(f"{facts.memory_gb:.1f} GB of memory are free; end what else runs there")
    if facts.shm_gb < MIN_SHM_GB:
        faults.append(
            f"{facts.shm_gb:.2f} GB are free in /dev/shm; remove what is left there, or give the "
            "container more (--shm-size)"
        )
    if 0 < facts.write_mb_s < MIN_WRITE_MB_S:
        faults.append(
            f"the run folder is written at {facts.write_mb_s:.1f} MB/s; put run_dir on a faster "
            "file system"
        )
    if abs(facts.skew_s) > MAX_SKEW_S:
        faults.append(
            f"its clock is {facts.skew_s:+.1f} s off the head node's; start chrony or ntpd there"
        )
    return faults


def _differing_versions(facts: Mapping[str, NodeFacts]) -> list[str]:
    """Name the nodes that differ from the majority, package by package."""
    faults = []
    for package in sorted({name for node in facts.values() for name in node.versions}):
        there = {
            node: found.versions[package]
            for node, found in facts.items()
            if package in found.versions
        }
        usual = max(sorted(set(there.values())), key=list(there.values()).count)
        faults += [
            f"{node}: {package} is {version}, elsewhere it is {usual}; use one environment on a "
            "folder that all nodes see"
            for node, version in there.items()
            if version != usual
        ]
    return faults
