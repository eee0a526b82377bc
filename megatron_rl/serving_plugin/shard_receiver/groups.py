"""Process groups of learner ranks and a server's ranks, or of two servers', beside torch's own.

A backend is built directly: torch's registry of groups is not made for several threads, and a
learner rank joins those of all its servers at once.
"""

import datetime
from typing import Any

import torch.distributed as dist


class AbsentError(Exception):
    """The other of a pair does not come; its text is the name of the pair."""


COMES = "comes/{side}"
"""Key under which a side of a pair says, below the pair and rank, whether it comes."""


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


def meet(
    store: dist.Store, name: str, rank: int, side: int, *, backend: str, timeout_s: float
) -> Any:
    """Join the group of two that a rank has with the same rank of another server.

    Args:
        store: the learner's.
        name: of the pair of servers.
        rank: of both, each in its server.
        side: this one's rank in the group.
        backend: see open_group.
        timeout_s: see open_group.

    Raises:
        AbsentError: the other does not come within ``timeout_s``, or it is said that it will not.
        RuntimeError: it came, but the two did not connect.
    """
    meeting = dist.PrefixStore(f"{name}/{rank}", store)
    meeting.set_timeout(datetime.timedelta(seconds=timeout_s))
    meeting.set(COMES.format(side=side), "yes")
    try:
        answer = meeting.get(COMES.format(side=1 - side))
    except dist.DistStoreError:  # in time
        answer = b""
    if answer != b"yes":
        raise AbsentError(name)
    return open_group(backend, meeting, rank=side, size=2, timeout_s=timeout_s)


def end_group(group: Any) -> None:
    """Give up a group without waiting for what is under way in it.

    Over gloo its connections close with the last reference to it or to one of its works: callers
    keep neither.
    """
    if group.name() == "nccl":
        group.abort()
