"""Planned nodes of a job that has not been submitted yet. Pure."""

from megatron_rl.config import RunConfig
from megatron_rl.errors import ConfigError
from megatron_rl.placement.roles import HET_GROUPS, Kind, Node, fewest_learner_nodes, rollout_cpus


def planned_nodes(config: RunConfig) -> list[Node]:
    """Return placeholders n1, n2, ... for the nodes of the job, in Slurm's order.

    Raises:
        ConfigError: a heterogeneous job has no node left for the servers.
    """
    sizes = component_sizes(config)
    launch = config.launch
    nodes: list[Node] = []
    for kind, size in sizes.items():
        group = HET_GROUPS.index(kind) if launch.placement.heterogeneous else None
        gpus = 0 if kind == "rollout" else launch.gpus_per_node
        asked = component_cpus(config, kind)
        cpus = 0 if asked is None else asked
        nodes += [
            Node(name=f"n{len(nodes) + i + 1}", gpus=gpus, cpus=cpus, het_group=group)
            for i in range(size)
        ]
    return nodes


def component_sizes(config: RunConfig) -> dict[Kind, int]:
    """Return how many nodes each component of the job has; an ordinary job has one component."""
    launch, placement = config.launch, config.launch.placement
    if not placement.heterogeneous:
        return {"learner": launch.nodes}
    learner = placement.learner_nodes
    if learner is None:
        learner = fewest_learner_nodes(
            config.learner.num_processes,
            gpus_per_node=launch.gpus_per_node,
            tp=config.learner.parallel.tp,
        )
    servers = placement.generator_nodes
    if servers is None:
        servers = launch.nodes - learner
    if servers < 1:
        raise ConfigError(
            f"launch.nodes ({launch.nodes}) leaves no node to the servers of a heterogeneous job, "
            f"whose learner has {learner}; raise launch.nodes to {learner + 1} or more"
        )
    if learner + servers != launch.nodes:
        raise ConfigError(
            f"launch.nodes ({launch.nodes}) must be the {learner} nodes of the learner and the "
            f"{servers} of the servers together; set launch.nodes, launch.placement.learner_nodes "
            "and generator_nodes to agree"
        )
    return {"learner": learner, "generator": servers, "rollout": 1}


def component_cpus(config: RunConfig, kind: Kind) -> int | None:
    """Return the CPUs to ask for on each node of a component, None for all of them."""
    launch = config.launch
    if launch.cpus_per_node is None or kind != "rollout":
        return launch.cpus_per_node
    return rollout_cpus(config)
