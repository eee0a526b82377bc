"""Whole state of a learner as Megatron checkpoints it, restored at any layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.serialization import get_default_load_sharded_strategy
from megatron.core.dist_checkpointing.strategies.fully_parallel import (
    FullyParallelLoadStrategyWrapper,
)

from megatron_rl.errors import CheckpointError
from megatron_rl.learner.checkpoint.integrity import check_files
from megatron_rl.learner.checkpoint.megatron_format import (
    checkpoint_errors,
    content_metadata,
    replica_group,
)
from megatron_rl.learner.checkpoint.model_identity import check_same_model
from megatron_rl.learner.checkpoint.optimizer_state import (
    loadable_optimizer_state,
    optimizer_facts,
    sharded_optimizer_state,
)
from megatron_rl.learner.checkpoint.steps import latest_step, remedy, step_folder
from megatron_rl.learner.device.platform import Platform
from megatron_rl.model_spec import ModelSpec

# Of a parameter group: a resumed run takes these from its configuration, not from the checkpoint.
_CONFIGURED = ("max_lr", "min_lr", "betas", "eps")


def state_to_save(
    *,
    chunks: Sequence[Any],
    optimizer: Any,
    schedule: Any,
    platform: Platform,
    extra: dict[str, Any],
) -> dict[str, Any]:
    """Describe everything an exact continuation needs; tensors are those in use, not copies.

    Args:
        extra: JSON-able facts of the run that belong to this step.
    """
    state = _model_state(chunks)
    state["optimizer"] = sharded_optimizer_state(optimizer, state)
    return state | {
        "optimizer_facts": optimizer_facts(optimizer),
        "schedule": schedule.state_dict(),
        "rng": _gathered(platform.generator_states()),
        "extra": extra,
    }


def load_checkpoint(
    root: Path,
    step: int,
    *,
    spec: ModelSpec,
    chunks: Sequence[Any],
    optimizer: Any,
    schedule: Any,
    platform: Platform,
) -> dict[str, Any]:
    """Restore model, optimiser, schedule and generators; return what was saved as ``extra``.

    The layout may differ from the one that saved. Random generators are restored when the number
    of ranks is the same.

    Raises:
        CheckpointError: it is damaged, or of another model than ``spec``.
    """
    folder = step_folder(root, step)
    _check_on_first_rank(folder, spec)
    with checkpoint_errors(f"{folder}: damaged, or of another model ({remedy(folder)})"):
        strategy = FullyParallelLoadStrategyWrapper(
            get_default_load_sharded_strategy(str(folder)), replica_group()
        )
        wanted = _model_state(chunks)
        wanted["optimizer"] = optimizer.sharded_state_dict(
            wanted, is_loading=True, metadata=_metadata()
        )
        state = dist_checkpointing.load(wanted, str(folder), strategy)
    if "optimizer_facts" not in state:
        raise CheckpointError(
            f"{folder}: written by an earlier version of megatron_rl, which stored the optimiser "
            f"otherwise; start a new run from its weights: tools/convert_megatron_to_hf.py {folder}"
        )
    for name, chunk in zip(_chunk_names(chunks), chunks, strict=True):
        chunk.load_state_dict(state[name], strict=True)
    configured = [{key: group[key] for key in _CONFIGURED} for group in optimizer.param_groups]
    optimizer.load_state_dict(
        loadable_optimizer_state(optimizer, state["optimizer"], state["optimizer_facts"])
    )
    for group, values in zip(optimizer.param_groups, configured, strict=True):
        group.update(values)
    schedule.num_steps = 0  # loading counts on from here
    schedule.load_state_dict(state["schedule"])
    if len(state["rng"]) == dist.get_world_size():
        states = state["rng"][dist.get_rank()]
        # Earlier versions saved the host's generator alone.
        is_bare = isinstance(states, torch.Tensor)
        platform.set_generator_states({"host": states, "kind": "host"} if is_bare else states)
    return state["extra"]


def agreed_latest_step(root: Path) -> int | None:
    """Return the newest complete checkpoint's step as rank 0 sees it, None without one.

    Ranks on other nodes may see the pointer of a moment ago. A collective.

    Raises:
        CheckpointError: the pointer is damaged, or names a checkpoint that is gone.
    """
    seen: list[int | str | None] = [None]
    if dist.get_rank() == 0:
        try:
            seen = [latest_step(root)]
        except CheckpointError as error:
            seen = [str(error)]
    dist.broadcast_object_list(seen, src=0)
    (step,) = seen
    if isinstance(step, str):
        raise CheckpointError(step)
    return step


def _check_on_first_rank(folder: Path, spec: ModelSpec) -> None:
    """Compare model and files on one rank, and tell all."""
    verdict: list[str | None] = [None]
    if dist.get_rank() == 0:
        try:
            check_same_model(folder, spec)
            check_files(folder)
        except (CheckpointError, OSError) as error:
            verdict = [str(error)]
    dist.broadcast_object_list(verdict, src=0)
    if verdict[0] is not None:
        raise CheckpointError(verdict[0])


def _model_state(chunks: Sequence[Any]) -> dict[str, Any]:
    return {
        name: chunk.sharded_state_dict(metadata=_metadata())
        for name, chunk in zip(_chunk_names(chunks), chunks, strict=True)
    }


def _metadata() -> dict[str, Any]:
    return content_metadata() | {"dp_cp_group": replica_group()}


def _chunk_names(chunks: Sequence[Any]) -> list[str]:
    """Return the names Megatron's optimiser expects the chunks of a stage under."""
    return ["model"] if len(chunks) == 1 else [f"model{i}" for i in range(len(chunks))]


def _gathered(states: dict[str, Any]) -> list[dict[str, Any]]:
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, states)
    return everyone
