"""Roles of a Slurm job: a pure plan of steps, from the configuration and the nodes.

Example: 2 learner ranks and 2 servers on CPU nodes n1 to n3, with 2 learner_nodes and 2
generator_nodes, make ``learn`` on n1 and n2, ``serve_0`` on n2, ``serve_1`` and ``rollout`` on n3.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from megatron_rl.config import RunConfig
from megatron_rl.errors import ConfigError
from megatron_rl.placement.blocks import deal_servers, fewest_nodes, node_blocks

Kind = Literal["learner", "generator", "rollout"]
HET_GROUPS: tuple[Kind, ...] = ("learner", "generator", "rollout")
"""Components of a heterogeneous job in their order; the batch script runs in the first."""
_ROLLOUT_CPUS = 2
"""CPUs of rollout itself (its event loop, reading and writing), without its judge's workers."""
_ROLLOUT_SHARE = 4
"""Rollout gets at most one CPU in so many of a GPU node; the rest goes with its GPUs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One node of the job."""

    name: str
    gpus: int
    cpus: int
    """0 while unknown, before the job exists."""
    het_group: int | None = None
    """Component of a heterogeneous job; None in an ordinary one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Role:
    """One srun step: a program on some nodes, with what it may use there."""

    name: str
    """Name of the role and of its log; a server's name ends in its index."""
    program: str
    """Command of megatron-rl."""
    kind: Kind
    nodes: tuple[str, ...]
    tasks: int
    """Processes on all nodes together, the same number on each."""
    gpus_per_node: int
    cpus_per_task: int
    """0 while unknown."""
    options: tuple[str, ...] = ()
    """Options of the command, after the configuration."""
    environment: Mapping[str, str] = field(default_factory=dict)
    het_group: int | None = None
    reads_config: bool = True
    """Whether the command gets the run's configuration; a node check does not."""
    ends_together: bool = True
    """Whether Slurm ends all tasks once one has failed."""


def plan_roles(config: RunConfig, nodes: Sequence[Node]) -> list[Role]:
    """Return every step of the RL phase: the learner, each server, rollout.

    Learner ranks fill the first nodes, equally many on each, in an order that keeps each
    tensor-parallel group within a node. A server is on one node, or on generators.nodes_per_server
    neighbours with a task on each. Steps never share a CPU or GPU: srun would make one step wait
    for the end of the other.

    Raises:
        ConfigError: a role does not fit; names the key and a value that fits.
    """
    learner = plan_learner(config, nodes, program="learn")
    servers = list(_servers(config, nodes, learner))
    roles = [learner, *servers, _rollout(config, nodes, [learner, *servers])]
    _check_cpus(roles, nodes)
    return roles


def plan_learner(config: RunConfig, nodes: Sequence[Node], *, program: str) -> Role:
    """Return the step of ``learn`` or ``sft``."""
    reserved = _reserved_cpus(config, nodes)
    nodes = _component(nodes, "learner")
    ranks, tp = config.learner.num_processes, config.learner.parallel.tp
    count = config.launch.placement.learner_nodes
    if count is None:
        count = fewest_learner_nodes(ranks, gpus_per_node=nodes[0].gpus, tp=tp)
        if count > len(nodes):
            raise ConfigError(
                f"learner.num_processes ({ranks}) takes {count} nodes of {nodes[0].gpus} GPUs, and "
                f"there are {len(nodes)}; raise launch.nodes or lower learner.num_processes"
            )
    _check_enough_nodes(len(nodes), count, "launch.placement.learner_nodes")
    if ranks % count:
        raise ConfigError(
            f"learner.num_processes ({ranks}) must be a multiple of the {count} nodes of "
            "launch.placement.learner_nodes, which all get as many ranks"
        )
    per_node = ranks // count
    if per_node % tp and tp % per_node:
        raise ConfigError(
            f"{per_node} learner ranks a node split tensor-parallel groups of {tp} over nodes; "
            "make learner.parallel.tp divide them"
        )
    if tp > per_node and nodes[0].gpus:
        raise ConfigError(
            f"learner.parallel.tp ({tp}) spans nodes that hold {per_node} ranks each; use at most "
            f"tp = {per_node}, and pp or cp across nodes"
        )
    used, gpus = nodes[:count], per_node if nodes[0].gpus else 0
    if gpus > nodes[0].gpus:
        raise ConfigError(
            f"{per_node} learner ranks a node need as many GPUs, a node has {nodes[0].gpus}; raise "
            "launch.placement.learner_nodes or lower learner.num_processes"
        )
    return Role(
        name=program,
        program=program,
        kind="learner",
        nodes=tuple(node.name for node in used),
        tasks=ranks,
        gpus_per_node=gpus,
        cpus_per_task=min(
            _task_cpus(node, config.learner.cpu_threads, gpus=1, reserved=reserved) for node in used
        ),
        het_group=used[0].het_group,
    )


def _servers(config: RunConfig, nodes: Sequence[Node], learner: Role) -> Iterator[Role]:
    generators, span = config.generators, config.generators.nodes_per_server
    reserved = _reserved_cpus(config, nodes)
    room = _server_room(config, nodes, learner)
    total = sum(room.values())
    if total < generators.num_servers:
        where = ", ".join(f"{'+'.join(block)}: {count}" for block, count in room.items())
        raise ConfigError(
            f"generators.num_servers ({generators.num_servers}) of generators.tp {generators.tp} "
            f"do not fit; there is room for {total} ({where}). A server takes {span} "
            f"{'node' if span == 1 else 'nodes'} (generators.nodes_per_server); ask for more "
            "launch.nodes or fewer servers"
        )
    by_name = {node.name: node for node in nodes}
    ranks = generators.tp // span
    for index, block in enumerate(deal_servers(room, generators.num_servers)):
        used = [by_name[name] for name in block]
        gpus = ranks if used[0].gpus else 0
        yield Role(
            name=f"serve_{index}",
            program="serve",
            kind="generator",
            nodes=block,
            tasks=span,
            gpus_per_node=gpus,
            cpus_per_task=min(
                _task_cpus(node, generators.cpu_threads * ranks, gpus=gpus, reserved=reserved)
                for node in used
            ),
            options=("--index", str(index), "--await-weights"),
            het_group=used[0].het_group,
        )


def _server_room(
    config: RunConfig, nodes: Sequence[Node], learner: Role
) -> dict[tuple[str, ...], int]:
    """Return the number of servers that fit on each block of nodes, in the order of use."""
    nodes = _component(nodes, "generator")
    count, span = config.launch.placement.generator_nodes, config.generators.nodes_per_server
    _check_enough_nodes(len(nodes), span, "generators.nodes_per_server")
    if count is None:
        free = [node for node in nodes if node.name not in learner.nodes]
        chosen = free if len(free) >= span else list(nodes)
    else:
        _check_enough_nodes(len(nodes), count, "launch.placement.generator_nodes")
        chosen = list(nodes[-count:])
        if count < span:
            raise ConfigError(
                f"launch.placement.generator_nodes ({count}) must be >= "
                f"generators.nodes_per_server ({span})"
            )
    _check_tp(config.generators.tp, span, gpus_per_node=nodes[0].gpus)
    ranks = config.generators.tp // span
    taken = dict.fromkeys(learner.nodes, learner.gpus_per_node)
    room = {
        node.name: (node.gpus - (taken[node.name] if node.name in taken else 0)) // ranks
        if nodes[0].gpus
        else config.generators.num_servers
        for node in chosen
    }
    return {block: min(room[name] for name in block) for block in node_blocks(list(room), span)}


def _check_tp(tp: int, span: int, *, gpus_per_node: int) -> None:
    """Refuse more ranks of a server on a node than it has GPUs."""
    if tp // span > gpus_per_node > 0:
        where = "a node" if span == 1 else f"generators.nodes_per_server ({span}) nodes"
        raise ConfigError(
            f"generators.tp ({tp}) is more than the {gpus_per_node * span} GPUs of {where}; let a "
            f"server span generators.nodes_per_server = "
            f"{fewest_nodes(tp, gpus_per_node=gpus_per_node)}, or use at most generators.tp = "
            f"{gpus_per_node * span}"
        )


def _rollout(config: RunConfig, nodes: Sequence[Node], others: Sequence[Role]) -> Role:
    """Return rollout's step, with the CPUs that it can use and that other roles leave."""
    node = _rollout_node(config, nodes)
    left = node.cpus - sum(_cpus_on(role, node) for role in others)
    return Role(
        name="rollout",
        program="rollout",
        kind="rollout",
        nodes=(node.name,),
        tasks=1,
        gpus_per_node=0,
        cpus_per_task=max(1, min(rollout_cpus(config), left)) if node.cpus else 0,
        het_group=node.het_group,
    )


def rollout_cpus(config: RunConfig) -> int:
    """Return how many CPUs rollout and its judge's workers can use."""
    return _ROLLOUT_CPUS + config.judge.num_workers


def _rollout_node(config: RunConfig, nodes: Sequence[Node]) -> Node:
    nodes = _component(nodes, "rollout")
    return nodes[0] if config.launch.placement.rollout_node == "first" else nodes[-1]


def _reserved_cpus(config: RunConfig, nodes: Sequence[Node]) -> dict[str, int]:
    """Return the CPUs of each node that are kept from its GPUs."""
    node = _rollout_node(config, nodes)
    return {node.name: min(rollout_cpus(config), node.cpus // _ROLLOUT_SHARE)}


def _check_cpus(roles: Sequence[Role], nodes: Sequence[Node]) -> None:
    for node in nodes:
        wanted = {role.name: _cpus_on(role, node) for role in roles if node.name in role.nodes}
        total = sum(wanted.values())
        if total > node.cpus > 0:
            parts = ", ".join(f"{name}: {cpus}" for name, cpus in wanted.items())
            raise ConfigError(
                f"{node.name} has {node.cpus} CPUs, and its programs take {total} ({parts}); raise "
                "launch.cpus_per_node or launch.nodes, or lower learner.cpu_threads or "
                "generators.cpu_threads"
            )


def _cpus_on(role: Role, node: Node) -> int:
    if node.name not in role.nodes:
        return 0
    return role.cpus_per_task * role.tasks // len(role.nodes)


def _component(nodes: Sequence[Node], kind: Kind) -> list[Node]:
    """Return the nodes that may run a kind of program: its component, or all of them."""
    assert nodes
    group = HET_GROUPS.index(kind)
    return [node for node in nodes if node.het_group in (None, group)]


def fewest_learner_nodes(ranks: int, *, gpus_per_node: int, tp: int) -> int:
    """Return the smallest number of nodes that hold the ranks, equally many on each.

    Each node holds whole tensor-parallel groups if some number allows it. The result may exceed the
    number of nodes in the job.
    """
    if not gpus_per_node:
        return 1
    least = -(-ranks // gpus_per_node)
    even = [n for n in range(least, ranks + 1) if ranks % n == 0]
    return next((n for n in even if ranks // n % tp == 0), even[0])


def _task_cpus(node: Node, threads: int, *, gpus: int, reserved: Mapping[str, int]) -> int:
    """Return the CPUs of a task: those that go with its GPUs, or its number of threads."""
    if not node.cpus:
        return 0
    if node.gpus:
        kept = reserved[node.name] if node.name in reserved else 0
        share = max(1, (node.cpus - kept) // node.gpus)
        # A step is given whole cores, and most have two CPUs: an odd number would take one more.
        return (share - share % 2 if share > 1 else share) * gpus
    return min(node.cpus, threads)


def _check_enough_nodes(there: int, wanted: int, key: str) -> None:
    if wanted > there:
        raise ConfigError(
            f"{key} ({wanted}) is more than the {there} nodes there are; raise launch.nodes"
        )
