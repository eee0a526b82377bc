"""Node facts that preflight collects, and the verdict on whether they suffice. Pure."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

ALL_REDUCE_RESULT = "all_reduce.json"
"""File in the preflight folder: seconds and GB/s of the learner's nodes."""
MAX_SKEW_S = 2.0
"""Logs of several nodes become unreadable with more, and credentials expire early."""
MIN_SHM_GB = 1.0
"""NCCL and PyTorch's workers pass data through /dev/shm."""
MIN_MEMORY_GB = 2.0
"""Memory of one small program."""
MIN_WRITE_MB_S = 5.0
"""A checkpoint or a batch file on anything slower holds up the run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeCheck:
    """Parameters of the check of one node. Plain JSON, on a command line."""

    head: str
    """HOST:PORT of the head node's server."""
    folder: str
    """Folder that every node must see, with a file that holds ``token``."""
    token: str
    serving_python: str
    """Interpreter that must have SGLang."""
    kinds: Sequence[str]
    """Kinds of the programs that will run on the node."""
    is_called: bool
    """Whether other nodes will connect to the node by its name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeFacts:
    """Facts that a node has measured about itself. Plain JSON."""

    node: str
    versions: Mapping[str, str]
    """Versions of Python and packages, by name."""
    gpus: int
    """GPUs that answer to the driver."""
    memory_gb: float
    """Memory that is free for programs."""
    shm_gb: float
    """Space that is free in /dev/shm."""
    write_mb_s: float
    """Speed of writing to the run folder, with fsync; 0 when it cannot be written."""
    read_mb_s: float
    skew_s: float
    """Difference of the node's clock and the head node's."""
    problems: Sequence[str] = field(default_factory=list)
    """Faults that the node itself found, each with its remedy."""


_MARK = "facts"
# srun merges the output of several nodes line by line; it cuts and mixes lines beyond 1 kB.
_PIECE_CHARS = 600


def to_lines(facts: NodeFacts, *, token: str) -> Iterator[str]:
    """Yield lines to print, which :func:`from_lines` finds among other output.

    Args:
        token: of the check, so that the lines of an earlier check are not taken for its own.
    """
    text = json.dumps(dataclasses.asdict(facts))
    pieces = [text[i : i + _PIECE_CHARS] for i in range(0, len(text), _PIECE_CHARS)]
    for index, piece in enumerate(pieces):
        yield f"{_MARK} {token} {facts.node} {index} {len(pieces)} {piece}"


def from_lines(text: str, *, token: str) -> dict[str, NodeFacts]:
    """Return the facts of every node whose lines are all in ``text``, in any order."""
    pieces: dict[str, dict[int, str]] = {}
    counts: dict[str, int] = {}
    for line in text.splitlines():
        words = line.split(" ", 5)
        if words[:2] == [_MARK, token] and len(words) == 6:
            _, _, node, index, count, piece = words
            pieces.setdefault(node, {})[int(index)] = piece
            counts[node] = int(count)
    whole = {node: found for node, found in pieces.items() if len(found) == counts[node]}
    return {
        node: NodeFacts(**json.loads("".join(found[i] for i in range(len(found)))))
        for node, found in whole.items()
    }


def find_faults(
    wanted: Mapping[str, int],
    facts: Mapping[str, NodeFacts],
    *,
    log: str,
    timeout_s: float | None,
) -> list[str]:
    """Return a line for each fault, naming node and remedy.

    Args:
        wanted: GPUs that the run needs of each node.
        facts: by node; one that is missing did not answer.
        log: file with the nodes' output.
        timeout_s: time that the nodes had to answer; None when the check ended before that.
    """
    faults = []
    for node, gpus in wanted.items():
        if node not in facts:
            faults.append(_no_answer_fault(node, log, timeout_s))
            continue
        faults += [f"{node}: {line}" for line in _own_faults(facts[node], gpus)]
    return faults


def _no_answer_fault(node: str, log: str, timeout_s: float | None) -> str:
    if timeout_s is None:
        return (
            f"{node}: no answer before its check ended, so it cannot be reached, or launch.python "
            f"or the image is not there; see {log}, or leave it out with sbatch --exclude={node}"
        )
    return (
        f"{node}: no answer within {timeout_s:.0f} s (launch.preflight_timeout_s); see {log}, and "
        f"leave the node out with sbatch --exclude={node}"
    )


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


def differing_versions(facts: Mapping[str, NodeFacts]) -> list[str]:
    """Name the nodes that differ from the majority, package by package.

    Args:
        facts: facts of all nodes whose programs run in one image or environment.
    """
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
