"""Servers that span nodes: which node this is, and where there can be no such server."""

from collections.abc import Mapping

from megatron_rl.config import GeneratorsConfig
from megatron_rl.errors import ConfigError
from megatron_rl.generation.server_command import ONE_NODE, Span

_FROM_THE_STEP = ("MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID")


def span_of(generators: GeneratorsConfig, environment: Mapping[str, str]) -> Span:
    """Return which node of its server this process is, from what its Slurm step says.

    Raises:
        ConfigError: the server spans nodes, and this is no step of a job that does.
    """
    if generators.nodes_per_server == 1:
        return ONE_NODE
    if any(name not in environment for name in _FROM_THE_STEP):
        check_one_machine(generators)
    return Span(
        num_nodes=generators.nodes_per_server,
        node_rank=int(environment["SLURM_PROCID"]),
        rendezvous=f"{environment['MASTER_ADDR']}:{environment['MASTER_PORT']}",
    )


def check_one_machine(generators: GeneratorsConfig) -> None:
    """Refuse a server that spans nodes, where all runs on this machine."""
    if generators.nodes_per_server > 1:
        raise ConfigError(
            f"generators.nodes_per_server ({generators.nodes_per_server}) needs a Slurm job of as "
            "many nodes, and this is one machine; submit the run as a job, or set it to 1"
        )
