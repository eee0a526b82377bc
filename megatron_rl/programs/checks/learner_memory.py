"""Memory estimate of a configured learner, and whether it fits a GPU."""

from collections.abc import Iterator

from megatron_rl.config import LearnerConfig, RunConfig, resolve_precision
from megatron_rl.model_spec import ModelSpec
from megatron_rl.parallelism.memory import RESERVE_GIB, Memory, estimate_memory
from megatron_rl.programs.builders.model import layout_of

_GIB = 2**30
_RECOMPUTE = "recompute_granularity"


def estimate_learner_memory(config: RunConfig, spec: ModelSpec) -> Memory:
    """Return what the fullest rank of the learner holds; its layout must be legal."""
    learner = config.learner
    return estimate_memory(
        spec,
        layout_of(learner.parallel),
        world_size=learner.num_processes,
        precision=resolve_precision(learner.precision, dtype=config.model.dtype),
        token_budget=learner.token_budget,
        chunk_tokens=learner.logprob_chunk_tokens,
        is_recomputed=_is_recomputed(learner),
        has_reference=config.algorithm.kl_coefficient > 0,
        has_fp32_head=learner.fp32_lm_head,
    )


def describe_memory(memory: Memory, *, gpu_memory_gb: float | None) -> Iterator[str]:
    """Yield the estimate as a line, and a warning when a GPU of this many GiB has not enough."""
    parts = {
        "weights": memory.weights,
        "reference": memory.reference,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations": memory.activations,
        "logits": memory.logits,
    }
    shown = ", ".join(f"{name} {size / _GIB:.1f}" for name, size in parts.items() if size)
    total = memory.total / _GIB
    size = "" if gpu_memory_gb is None else f" of {gpu_memory_gb:g}"
    yield f"memory of the fullest rank, estimated: {total:.1f}{size} GiB ({shown})"
    if gpu_memory_gb is not None and total > gpu_memory_gb - RESERVE_GIB:
        yield (
            f"warning: {total:.1f} GiB leave less than {RESERVE_GIB:g} of launch.gpu_memory_gb "
            f"({gpu_memory_gb:g}) for what is not counted; see tools/choose_layout.py for layouts "
            "that fit"
        )


def _is_recomputed(learner: LearnerConfig) -> bool:
    return _RECOMPUTE in learner.megatron and learner.megatron[_RECOMPUTE] == "full"
