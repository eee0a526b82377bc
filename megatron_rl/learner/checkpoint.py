"""Megatron checkpoints: sharded, complete or absent, loadable at another layout."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.serialization import (
    get_default_load_sharded_strategy,
    get_default_save_sharded_strategy,
)
from megatron.core.dist_checkpointing.strategies.fully_parallel import (
    FullyParallelLoadStrategyWrapper,
    FullyParallelSaveStrategyWrapper,
)
from torch.distributed.checkpoint.api import CheckpointException

from megatron_rl.errors import CheckpointError
from megatron_rl.learner.checkpoint_steps import name_latest, step_folder

# Of a parameter group: a resumed run takes these from its configuration, not from the checkpoint.
_CONFIGURED = ("max_lr", "min_lr", "betas", "eps")


def save_checkpoint(
    root: Path,
    step: int,
    *,
    chunks: Sequence[Any],
    optimizer: Any,
    schedule: Any,
    extra: dict[str, Any],
) -> None:
    """Write one checkpoint together with all ranks; it is named only once all have finished.

    Args:
        extra: JSON-able facts of the run that belong to this step.

    Raises:
        CheckpointError: it cannot be written.
    """
    final = step_folder(root, step)
    partial = final.with_name(f".{final.name}.partial")
    if dist.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    strategy = FullyParallelSaveStrategyWrapper(
        get_default_save_sharded_strategy("torch_dist"), _dp_group(), True
    )
    state = _sharded_state(chunks, optimizer, is_loading=False)
    state |= {"schedule": schedule.state_dict(), "rng": _gathered_rng(), "extra": extra}
    with checkpoint_errors(f"{partial}: cannot be written"):
        dist_checkpointing.save(state, str(partial), strategy, content_metadata=content_metadata())
    dist.barrier()
    if dist.get_rank() == 0:
        shutil.rmtree(final, ignore_errors=True)
        partial.replace(final)
        name_latest(root, step)
    dist.barrier()


def load_checkpoint(
    root: Path, step: int, *, chunks: Sequence[Any], optimizer: Any, schedule: Any
) -> dict[str, Any]:
    """Restore model, optimiser, schedule and generators; return what was saved as ``extra``.

    The layout may differ from the one that saved. Random generators are restored when the number
    of ranks is the same.

    Raises:
        CheckpointError: it is damaged, or of another model.
    """
    folder = str(step_folder(root, step))
    with checkpoint_errors(f"{folder}: damaged, or of another model"):
        strategy = FullyParallelLoadStrategyWrapper(
            get_default_load_sharded_strategy(folder), _dp_group()
        )
        state = dist_checkpointing.load(
            _sharded_state(chunks, optimizer, is_loading=True), folder, strategy
        )
    for name, chunk in zip(_chunk_names(chunks), chunks, strict=True):
        chunk.load_state_dict(state[name], strict=True)
    configured = [{key: group[key] for key in _CONFIGURED} for group in optimizer.param_groups]
    optimizer.load_state_dict(state["optimizer"])
    for group, values in zip(optimizer.param_groups, configured, strict=True):
        group.update(values)
    schedule.num_steps = 0  # loading counts on from here
    schedule.load_state_dict(state["schedule"])
    if len(state["rng"]) == dist.get_world_size():
        torch.set_rng_state(state["rng"][dist.get_rank()])
    return state["extra"]


@contextlib.contextmanager
def checkpoint_errors(what: str) -> Iterator[None]:
    """Raise as CheckpointError what the libraries raise; torch's is not even an Exception."""
    try:
        yield
    except CheckpointException as error:
        (cause, _), *_ = error.failures.values()
        raise CheckpointError(f"{what}: {cause!r}") from error
    except (CheckpointingException, OSError) as error:
        raise CheckpointError(f"{what}: {error!r}") from error


def _sharded_state(chunks: Sequence[Any], optimizer: Any, *, is_loading: bool) -> dict[str, Any]:
    metadata = content_metadata() | {"dp_cp_group": _dp_group()}
    state: dict[str, Any] = {
        name: chunk.sharded_state_dict(metadata=metadata)
        for name, chunk in zip(_chunk_names(chunks), chunks, strict=True)
    }
    state["optimizer"] = optimizer.sharded_state_dict(
        state, is_loading=is_loading, metadata=metadata
    )
    return state


def _chunk_names(chunks: Sequence[Any]) -> list[str]:
    """Return the names Megatron's optimiser expects the chunks of a stage under."""
    return ["model"] if len(chunks) == 1 else [f"model{i}" for i in range(len(chunks))]


def content_metadata() -> dict[str, Any]:
    """Return what Megatron is told of a checkpoint, when it is written and when it is read."""
    return {
        "distrib_optim_sharding_type": "fully_reshardable",
        "singleton_local_shards": False,
        "chained_optim_avoid_prefix": True,
    }


def _dp_group() -> Any:
    return parallel_state.get_data_parallel_group(with_context_parallel=True)


def _gathered_rng() -> list[torch.Tensor]:
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, torch.get_rng_state())
    return states
