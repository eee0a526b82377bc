"""Learner ranks that are processes of their own, and send shards well, late, in part or never."""

import contextlib
import datetime
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from megatron_rl.serving_plugin.shard_receiver.groups import open_group

_TIMEOUT = datetime.timedelta(seconds=60)


@dataclass(frozen=True, kw_only=True, slots=True)
class Behaviour:
    """What a sender does; messages are counted over all senders, as the receiver counts them."""

    pause_s: float = 0.0
    """Before each message."""
    dies_before: int | None = None
    dies_at: int | None = None
    """Once this message has been begun."""
    is_silent_from: int | None = None
    """Sends no more, until the store has the key ``late``."""


@contextlib.contextmanager
def senders(
    port: int, group: str, payloads: Sequence[tuple[int, bytes]], behaviours: Sequence[Behaviour]
) -> Iterator[list[Any]]:
    """Have as many processes join a group of which the next rank receives.

    Args:
        port: of the learner's store.
        group: name of the group.
        payloads: source and bytes of each message, in order.
        behaviours: of each source.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", __name__])
    processes: list[Any] = []
    for rank, behaviour in enumerate(behaviours):
        arguments = (port, group, rank, len(behaviours), list(payloads), behaviour)
        processes.append(context.Process(target=_send, args=arguments, daemon=True))
        processes[-1].start()
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


def _send(
    port: int,
    group: str,
    rank: int,
    num_sources: int,
    payloads: list[tuple[int, bytes]],
    behaviour: Behaviour,
) -> None:
    store = dist.TCPStore("127.0.0.1", port, timeout=_TIMEOUT)
    backend = open_group(
        "gloo",
        dist.PrefixStore(group, store),
        rank=rank,
        size=num_sources + 1,
        timeout_s=_TIMEOUT.total_seconds(),
    )
    # One that dies while others still connect to it would take these with it.
    store.set(f"joined/{group}/{rank}", "")
    store.wait([f"joined/{group}/{other}" for other in range(num_sources)])
    for number, (source, data) in enumerate(payloads):
        if number == behaviour.dies_before:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == behaviour.is_silent_from:
            store.get("late")
        if source != rank:
            continue
        time.sleep(behaviour.pause_s)
        tensor = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        work = backend.send([tensor], num_sources, number)
        if number == behaviour.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        work.wait()
    if behaviour.dies_before == len(payloads):
        os.kill(os.getpid(), signal.SIGKILL)
    store.set(f"sent/{group}/{rank}", "")
    store.get("over")
