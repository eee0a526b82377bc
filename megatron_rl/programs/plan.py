"""``megatron-rl plan``: print which program of a Slurm job would run on which node."""

import argparse

from megatron_rl.config import RunConfig
from megatron_rl.programs.slurm_job.plan_text import describe_plan, with_nodes


def main(config: RunConfig, options: argparse.Namespace) -> int:
    """Print the placement and what follows from it; return 0.

    Raises:
        ConfigError, ModelError: the layout is illegal, or something does not fit on the nodes.
    """
    config = with_nodes(config, nodes=options.nodes, gpus_per_node=options.gpus_per_node)
    print(describe_plan(config))
    return 0
