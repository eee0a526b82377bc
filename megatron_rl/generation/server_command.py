"""Command line and environment of one stock SGLang server, from configuration values."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from megatron_rl.errors import ConfigError
from megatron_rl.generation.server_flags import Flag, render_flags
from megatron_rl.registry import SHARD_LOADER

STANDINS = Path(__file__).parent.parent / "serving_standins"
PLUGIN = Path(__file__).parent.parent / "serving_plugin"

# Flags that a server without a GPU needs, and flags for a server that shares its machine with a
# learner. Each can be replaced under generators.sglang.
_CPU_FLAGS: dict[str, Any] = {
    "device": "cpu",
    "attention_backend": "torch_native",
    "max_total_tokens": 32768,
    "max_running_requests": 128,
    "mem_fraction_static": 0.05,
    "sleep_on_idle": True,
    # The warm-up waits a second before it starts, and there is no kernel to compile.
    "skip_server_warmup": True,
}

_OVERRIDES = "json_model_override_args"

# One line per request would be most of the log.
_LOG_FLAGS: dict[str, Any] = {"log_level_http": "warning"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Node of a server that spans nodes; the default is a server on one node."""

    num_nodes: int = 1
    node_rank: int = 0
    """The tensor-parallel ranks are those of node 0, then of node 1, ...; node 0 serves."""
    rendezvous: str | None = None
    """HOST:PORT on node 0, at which the nodes find each other; None on one node."""


ONE_NODE = Span()


def check_dtype(dtype: str, *, device: Literal["cpu", "cuda"]) -> None:
    """Raise ConfigError for weights of a type in which a GPU server cannot compute.

    The RMSNorm of its package sglang-kernel is compiled for 16 bits only.
    """
    if device == "cuda" and dtype == "float32":
        raise ConfigError(
            'model.dtype ("float32") must be "bfloat16" or "float16" for generators on a GPU: '
            'SGLang has no RMSNorm of float32 there; set model.dtype = "bfloat16", and '
            'learner.precision = "fp32" if the learner is to compute in float32, or serve on the '
            'CPU with generators.sglang.device = "cpu"'
        )


def server_environment(
    *,
    device: Literal["cpu", "cuda"],
    tp: int,
    num_nodes: int = 1,
    cpu_threads: int,
    cores: Sequence[int],
    pythonpath: str,
) -> dict[str, str]:
    """Return the variables to add to a server's environment.

    Args:
        device: where the server computes.
        tp: tensor-parallel size.
        num_nodes: nodes with as many of the ranks on each.
        cpu_threads: OpenMP threads of each tensor-parallel rank on the CPU.
        cores: CPU cores the server may use.
        pythonpath: the PYTHONPATH so far, empty when there is none.
    """
    # Otherwise /health generates a token, which waits as long as the server is paused.
    variables = {
        "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "false",
        "PYTHONPATH": _path(PLUGIN, pythonpath),
    }
    if device == "cuda":
        return variables
    variables |= {
        "SGLANG_USE_CPU_ENGINE": "1",
        "OMP_NUM_THREADS": str(cpu_threads),
        "TORCHDYNAMO_DISABLE": "1",
        "PYTHONPATH": _path(STANDINS, variables["PYTHONPATH"]),
    }
    if tp > 1:
        variables["SGLANG_CPU_OMP_THREADS_BIND"] = _core_ranges(cores, tp // num_nodes, cpu_threads)
    return variables


def server_argv(
    *,
    python: Path,
    device: Literal["cpu", "cuda"],
    model_path: Path,
    has_weights: bool,
    takes_shards: bool,
    dtype: Literal["float32", "bfloat16", "float16"],
    config_overrides: Mapping[str, Any],
    tp: int,
    host: str,
    port: int,
    context_length: int | None,
    secret_file: Path,
    version: int,
    flags: Mapping[str, Any],
    known: Sequence[Flag] = (),
    span: Span = ONE_NODE,
) -> tuple[str, ...]:
    """Return the command line of ``python -m sglang.launch_server``.

    Args:
        python: interpreter of the environment that has sglang.
        device: where the server computes.
        model_path: Hugging Face folder to serve.
        has_weights: false starts from arbitrary weights, for the learner to replace.
        takes_shards: learner ranks may send it shards.
        dtype: type of the weights.
        config_overrides: fields of config.json that the server takes instead of the folder's,
            beside those that the user's own flag overrides.
        tp: tensor-parallel size.
        host: address to bind.
        port: port to bind.
        context_length: longest prompt plus completion; the model's own limit when None.
        secret_file: a YAML file with :func:`secret_text`, read once at start. Anyone on the
            machine can read a command line, so the key is not on it.
        version: policy version the weights of ``model_path`` are labelled with.
        flags: the user's checked flags; they replace ours.
        known: spellings of the user's flags.
        span: which node of the server this is.
    """
    ours: dict[str, Any] = {
        "model_path": model_path,
        "dtype": dtype,
        "tp_size": tp,
        "host": host,
        "port": port,
        "config": secret_file,
        "weight_version": version,
        # With overlap, the version of a token is reported one token too early after an update.
        "disable_overlap_schedule": True,
        **_LOG_FLAGS,
    }
    if context_length is not None:
        ours["context_length"] = context_length
    if span.num_nodes > 1:
        ours |= {
            "nnodes": span.num_nodes,
            "node_rank": span.node_rank,
            "dist_init_addr": span.rendezvous,
        }
    if not has_weights:
        ours["load_format"] = "dummy"
    if takes_shards:
        ours["custom_weight_loader"] = [SHARD_LOADER]
    if device == "cpu":
        ours |= _CPU_FLAGS
    chosen = {**ours, **flags}
    if config_overrides:
        users = _table_of(flags[_OVERRIDES]) if _OVERRIDES in flags else {}
        chosen[_OVERRIDES] = json.dumps({**users, **config_overrides})
    return (str(python), "-m", "sglang.launch_server", *render_flags(chosen, known))


def _table_of(overrides: Any) -> Mapping[str, Any]:
    """Return the user's overrides of config.json, given as a table or as its JSON."""
    try:
        table = json.loads(overrides) if isinstance(overrides, str) else overrides
    except ValueError as error:
        raise ConfigError(f"generators.sglang.{_OVERRIDES}: not valid JSON: {error}") from error
    if not isinstance(table, Mapping):
        raise ConfigError(
            f"generators.sglang.{_OVERRIDES} ({overrides!r}) must be a table of fields of "
            "config.json"
        )
    return table


def _path(first: Path, rest: str) -> str:
    return f"{first}:{rest}" if rest else str(first)


def secret_text(api_key: str) -> str:
    """Return the content of the secret file: YAML, of which JSON is a part."""
    return json.dumps({"api-key": api_key})


def _core_ranges(cores: Sequence[int], num_ranks: int, cpu_threads: int) -> str:
    """Give each rank cores of its own as far as they reach: ``0,1|2,3``."""
    assert cores, "a server needs a core"
    ranks = [
        [cores[(rank * cpu_threads + thread) % len(cores)] for thread in range(cpu_threads)]
        for rank in range(num_ranks)
    ]
    # SGLang counts the ranks of a node from 0 here.
    return "|".join(",".join(str(core) for core in sorted(set(rank))) for rank in ranks)
