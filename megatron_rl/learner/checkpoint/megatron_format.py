"""Megatron's checkpoint format: options for writing and reading, and errors in our words."""

import contextlib
from collections.abc import Iterator
from typing import Any

from megatron.core import parallel_state
from megatron.core.dist_checkpointing.core import CheckpointingException
from torch.distributed.checkpoint.api import CheckpointException

from megatron_rl.errors import CheckpointError
from megatron_rl.learner.checkpoint.optimizer_state import SHARDING_TYPE


@contextlib.contextmanager
def checkpoint_errors(what: str) -> Iterator[None]:
    """Raise as CheckpointError what the libraries raise; torch's is not even an Exception."""
    try:
        yield
    except CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]  # rank 0 alone knows them
        cause = repr(causes[0]) if causes else "another rank failed"
        raise CheckpointError(f"{what}: {cause}") from error
    except (CheckpointingException, OSError) as error:
        raise CheckpointError(f"{what}: {error!r}") from error


def content_metadata() -> dict[str, Any]:
    """Return what Megatron is told of a checkpoint, when it is written and when it is read."""
    return {
        "distrib_optim_sharding_type": SHARDING_TYPE,
        "singleton_local_shards": False,
        "chained_optim_avoid_prefix": True,
    }


def replica_group() -> Any:
    """Return the ranks that hold the same weights and share out what they write and read."""
    return parallel_state.get_data_parallel_group(with_context_parallel=True)
