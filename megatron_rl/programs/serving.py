"""The environment a run's servers start in, and the user's flags checked against that SGLang."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from megatron_rl.config import GeneratorsConfig
from megatron_rl.generation.server_command import server_environment
from megatron_rl.generation.server_flags import Flag, known_flags, user_cache_dir, validate_flags


def serving_device(flags: Mapping[str, object]) -> Literal["cpu", "cuda"]:
    """Return where to serve: what the user says, else a GPU that is there and not hidden."""
    if "device" in flags:
        return "cpu" if flags["device"] == "cpu" else "cuda"
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return "cuda" if Path("/dev/nvidiactl").exists() and not is_hidden else "cpu"


def serving_environment(generators: GeneratorsConfig) -> dict[str, str]:
    """Return the whole environment of a server process."""
    return os.environ | server_environment(
        device=serving_device(generators.sglang),
        tp=generators.tp,
        num_nodes=generators.nodes_per_server,
        cpu_threads=generators.cpu_threads,
        cores=sorted(os.sched_getaffinity(0)),
        pythonpath=os.environ.get("PYTHONPATH", ""),
    )


def checked_flags(generators: GeneratorsConfig) -> tuple[dict[str, Any], tuple[Flag, ...]]:
    """Return the user's flags and all that the installed SGLang knows; nothing without any.

    Raises:
        ConfigError: a flag that the installed SGLang lacks, or that is set elsewhere.
    """
    if not generators.sglang:
        return {}, ()
    # With the stand-ins of a CPU machine, without which SGLang cannot be imported there.
    environment = serving_environment(generators)
    known = known_flags(generators.python, environment, user_cache_dir(os.environ))
    return dict(validate_flags(generators.sglang, known)), known
