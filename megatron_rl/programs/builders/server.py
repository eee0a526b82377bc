"""SGLang servers of a run: their environment, flags and nodes, and one as a child process."""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from megatron_rl.config import GeneratorsConfig, RunConfig
from megatron_rl.conversion.block_fp8.tensors import quantization_config
from megatron_rl.errors import ConfigError
from megatron_rl.generation.server_command import (
    ONE_NODE,
    Span,
    check_dtype,
    server_environment,
)
from megatron_rl.generation.server_flags import (
    Flag,
    check_sampling_fields,
    known_flags,
    known_sampling_fields,
    support_flags,
    user_cache_dir,
    validate_flags,
)
from megatron_rl.placement.gpu_environment import NCCL_DEFAULTS
from megatron_rl.programs.builders.hardware import local_device
from megatron_rl.programs.builders.model import served_fields, trained_spec
from megatron_rl.programs.checks.quantized_servers import check_quantizing_device
from megatron_rl.programs.processes.children import Supervisor
from megatron_rl.programs.processes.run_folder import config_file, write_config
from megatron_rl.registry import ServerInfo, registered_servers
from megatron_rl.run_dir import RunDir

_FROM_THE_STEP = ("MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID")
_GRACE_S = 5.0
# Under torchrun this makes every process group of a child look for torchrun's store.
_APART_FROM_TORCHRUN = {"TORCHELASTIC_USE_AGENT_STORE": "False"}
_POLL_S = 0.1


def serving_device(flags: Mapping[str, object]) -> Literal["cpu", "cuda"]:
    """Return where to serve: what the user says, else a GPU that is there and not hidden."""
    if "device" in flags:
        return "cpu" if flags["device"] == "cpu" else "cuda"
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return "cuda" if Path("/dev/nvidiactl").exists() and not is_hidden else "cpu"


def takes_shards(config: RunConfig) -> bool:
    """Return whether servers are started with the loader of shards.

    Also where the learner will not send any by itself: it costs nothing.
    """
    return config.weights.transport in ("auto", "shards")


def check_served_dtype(config: RunConfig) -> None:
    """Raise ConfigError for a model.dtype that servers on this machine's device lack."""
    check_dtype(config.model.dtype, device=serving_device(config.generators.sglang))


def check_quantized_serving_here(config: RunConfig) -> None:
    """Raise ConfigError for quantised weights that servers on this machine cannot be sent."""
    on_gpu = serving_device(config.generators.sglang) == "cuda"
    check_quantizing_device(config, local_device().capability if on_gpu else None)


def served_quantization(config: RunConfig) -> dict[str, Any] | None:
    """Return ``quantization_config`` of servers that a learner sends weights; None for none."""
    if config.generators.quantization == "none":
        return None
    return quantization_config(trained_spec(config))


def config_overrides(config: RunConfig, *, has_weights: bool) -> dict[str, Any]:
    """Return the fields of config.json that a server takes from the run instead of its folder.

    Args:
        has_weights: whether it serves the weights of its folder, as they are.
    """
    quantization = None if has_weights else served_quantization(config)
    quantized = {} if quantization is None else {"quantization_config": quantization}
    return {**served_fields(config), **quantized}


def serving_environment(generators: GeneratorsConfig) -> dict[str, str]:
    """Return the whole environment of a server process."""
    device = serving_device(generators.sglang)
    defaults = NCCL_DEFAULTS if device == "cuda" else {}
    return {**defaults, **os.environ} | server_environment(
        device=device,
        tp=generators.tp,
        num_nodes=generators.nodes_per_server,
        cpu_threads=generators.cpu_threads,
        cores=sorted(os.sched_getaffinity(0)),
        pythonpath=os.environ.get("PYTHONPATH", ""),
    )


def checked_flags(generators: GeneratorsConfig) -> tuple[dict[str, Any], tuple[Flag, ...]]:
    """Return flags beyond a server's usual ones, and all that the installed SGLang knows.

    Both are empty when neither the user nor the sampling asks for any.

    Raises:
        ConfigError: a flag that the installed SGLang lacks, or that is set elsewhere.
    """
    most_choices = generators.sampling.most_choices
    if not generators.sglang and most_choices is None:
        return {}, ()
    # With the stand-ins of a CPU machine, without which SGLang cannot be imported there.
    environment = serving_environment(generators)
    known = known_flags(generators.python, environment, user_cache_dir(os.environ))
    flags = dict(validate_flags(generators.sglang, known))
    if most_choices is not None:
        flags |= support_flags(most_choices, known)
    return flags, known


def check_evaluation_sampling(config: RunConfig) -> None:
    """Raise ConfigError for a key of evaluation.sampling that the installed SGLang lacks."""
    given = {"evaluation.sampling": config.evaluation.sampling}
    for one in config.evaluation.sets:
        given[f"evaluation.sets.{one.name}.sampling"] = one.sampling or {}
    if not any(given.values()):
        return
    generators = config.generators
    environment = serving_environment(generators)
    known = known_sampling_fields(generators.python, environment, user_cache_dir(os.environ))
    for key, sampling in given.items():
        check_sampling_fields(key, sampling, known)


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


@contextlib.contextmanager
def run_local_server(config: RunConfig, *, starts_without_weights: bool) -> Iterator[ServerInfo]:
    """Serve the model of ``config`` in its run folder; yield once the server is registered.

    Args:
        config: of the server; written to the run folder for it to read.
        starts_without_weights: start on placeholder weights; others are published before any
            request.

    Raises:
        ConfigError: the server would span nodes.
        ProgramError: the server ended while starting; carries the last lines of its log.
    """
    check_one_machine(config.generators)
    run_dir = RunDir(config.run_dir)
    write_config(config)
    run_dir.policy.unlink(missing_ok=True)
    arguments = [
        "serve",
        str(config_file(config)),
        *(["--await-weights"] if starts_without_weights else []),
    ]
    with Supervisor(grace_s=_GRACE_S) as supervisor:
        child = supervisor.start(
            "serve",
            "serve_0",
            arguments,
            log=run_dir.logs / "serve_0.log",
            environment=_APART_FROM_TORCHRUN,
        )
        while not (servers := registered_servers(run_dir)):
            if child.poll() is not None:
                raise child.failure()
            time.sleep(_POLL_S)
        yield next(iter(servers.values()))
