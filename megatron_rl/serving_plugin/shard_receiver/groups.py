"""Process groups between learner ranks and the ranks of one server, apart from torch's default one.

A backend is built directly: torch's registry of groups is not made for several threads, and a
learner rank joins those of all its servers at once.
"""

import datetime
from typing import Any

import torch.distributed as dist


def open_group(backend: str, store: dist.Store, *, rank: int, size: int, timeout_s: float) -> Any:
    """Join a group through a store of its own, as both sides do; returns torch's backend object.

    Raises:
        RuntimeError: not everybody came within ``timeout_s``.
        ValueError: the backend is neither gloo nor nccl.
    """
    timeout = datetime.timedelta(seconds=timeout_s)
    store.set_timeout(timeout)
    if backend == "gloo":
        return dist.ProcessGroupGloo(store, rank, size, timeout)
    if backend == "nccl":
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = timeout
        return dist.ProcessGroupNCCL(store, rank, size, options)
    raise ValueError(f"no backend of a group of shards: {backend!r:.40}")


def end_group(group: Any) -> None:
    """Give up a group without waiting for what is under way in it.

    Over gloo its connections close with the last reference to it or to one of its works: callers
    keep neither.
    """
    if group.name() == "nccl":
        group.abort()
