"""Planned servers of a Slurm job on GPUs: whether SGLang can serve the model there."""

from collections.abc import Sequence

from megatron_rl.config import RunConfig
from megatron_rl.generation.server_command import check_dtype
from megatron_rl.model_spec import ModelSpec
from megatron_rl.placement.roles import Role
from megatron_rl.programs.checks.quantized_servers import (
    check_quantized_servers,
    check_quantizing_device,
)
from megatron_rl.programs.checks.server_ranks import check_server_ranks


def check_planned_servers(config: RunConfig, spec: ModelSpec, roles: Sequence[Role]) -> None:
    """Raise ConfigError for a type or size that servers with GPUs cannot have.

    Unlike ``validate_run`` it looks at where the servers will run, not at this machine.
    """
    check_quantized_servers(config, spec)
    servers = [role for role in roles if role.kind == "generator"]
    have_gpus = any(role.gpus_per_node for role in servers)
    if config.generators.sglang.get("device") == "cpu" or not have_gpus:
        if servers:
            check_quantizing_device(config, None)
        return
    check_dtype(config.model.dtype, device="cuda")
    check_server_ranks(config.generators, spec)
