"""Tensor-parallel size of a configured server, checked against the model it is to hold."""

from collections.abc import Mapping
from typing import Any

from megatron_rl.config import GeneratorsConfig
from megatron_rl.model_spec import ModelSpec
from megatron_rl.parallelism.serving_ranks import check_serving_ranks

_EXPERT_PARALLEL = ("ep_size", "ep", "expert_parallel_size")
# With these, attention or experts are cut over other groups of ranks, which SGLang checks itself.
_OTHER_GROUPS = (
    "attention_context_parallel_size",
    "attn_cp_size",
    "enable_dp_attention",
    "moe_data_parallel_size",
    "moe_dense_tp_size",
    "moe_dp_size",
)


def check_server_ranks(generators: GeneratorsConfig, spec: ModelSpec) -> None:
    """Raise ConfigError for a ``generators.tp`` that servers on GPUs cannot cut the model by."""
    if is_cut_otherwise(generators):
        return
    check_serving_ranks(spec, tp=generators.tp, ep=expert_parallel_size(generators))


def is_cut_otherwise(generators: GeneratorsConfig) -> bool:
    """Return whether flags have SGLang cut attention or experts over other groups of ranks."""
    flags = _flags(generators)
    return any(flags[name] is not False for name in flags.keys() & set(_OTHER_GROUPS))


def expert_parallel_size(generators: GeneratorsConfig) -> int:
    """Return how many ranks of a server share the experts of a layer."""
    flags = _flags(generators)
    return next((int(flags[name]) for name in _EXPERT_PARALLEL if name in flags), 1)


def _flags(generators: GeneratorsConfig) -> Mapping[str, Any]:
    return {key.replace("-", "_"): value for key, value in generators.sglang.items()}
