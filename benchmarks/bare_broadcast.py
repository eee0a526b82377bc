"""Bare gloo broadcast of the same tensors: the lower bound of a weight update."""

import multiprocessing
import socket
import statistics
import time
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_rl.weight_sync.bucketing import into_buckets


def broadcast_s(tensors: Sequence[Tensor], *, bucket_bytes: int | None, rounds: int) -> float:
    """Return the median seconds until another process has float32 tensors; a first is left out.

    Args:
        bucket_bytes: None for a receiver that gets them in place. Otherwise it receives each bucket
            of this size into new memory and then copies it into place, as a server has to.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shapes = [tuple(tensor.shape) for tensor in tensors]
    receiver = multiprocessing.get_context("spawn").Process(
        target=_receive, args=(port, shapes, bucket_bytes, rounds), daemon=True
    )
    receiver.start()
    store = dist.TCPStore("127.0.0.1", port, 2, is_master=True)
    dist.init_process_group("gloo", store=store, rank=0, world_size=2)
    seconds = []
    for _ in range(rounds + 1):
        dist.barrier()
        started = time.perf_counter()
        _broadcast(tensors)
        dist.barrier()  # the receiver has it all
        seconds.append(time.perf_counter() - started)
    dist.destroy_process_group()
    receiver.join()
    return statistics.median(seconds[1:])


def _receive(
    port: int, shapes: list[tuple[int, ...]], bucket_bytes: int | None, rounds: int
) -> None:
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, 2, is_master=False)
    dist.init_process_group("gloo", store=store, rank=1, world_size=2)
    places = [torch.zeros(shape) for shape in shapes]
    for _ in range(rounds + 1):
        dist.barrier()
        if bucket_bytes is None:
            _broadcast(places)
        else:
            _receive_and_copy(places, bucket_bytes)
        dist.barrier()
    dist.destroy_process_group()


def _receive_and_copy(places: Sequence[Tensor], bucket_bytes: int) -> None:
    named = ((str(i), place) for i, place in enumerate(places))
    for bucket in into_buckets(named, max_bytes=bucket_bytes):
        received = [torch.empty_like(place) for _, place in bucket]
        _broadcast(received)
        for (_, place), tensor in zip(bucket, received, strict=True):
            place.copy_(tensor)


def _broadcast(tensors: Sequence[Tensor]) -> None:
    for work in [dist.broadcast(tensor, src=0, async_op=True) for tensor in tensors]:
        work.wait()
