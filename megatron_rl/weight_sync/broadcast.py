"""Broadcast of whole tensors to a fleet of servers, in a process group that is rebuilt on failure.

While one bucket is sent, the next is gathered.
"""

import logging
import os
import time
import uuid
from collections.abc import Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from megatron_rl.errors import WeightSyncError
from megatron_rl.protocols import DeviceQueue
from megatron_rl.registry import request_restart
from megatron_rl.run_dir import RunDir
from megatron_rl.weight_sync.bucketing import Bucket, bucket_bytes
from megatron_rl.weight_sync.fleet import Fleet
from megatron_rl.weight_sync.group import BroadcastGroup, GroupError
from megatron_rl.weight_sync.nccl_faults import leave_nccl_faults_to_us

logger = logging.getLogger(__name__)


class Broadcaster:
    """Sender of whole tensors on the learner's rank 0; owns the broadcast group."""

    def __init__(
        self,
        run_dir: RunDir,
        *,
        backend: Literal["gloo", "nccl"],
        device: DeviceQueue,
        timeout_s: float,
    ) -> None:
        """Prepare; servers join when they are first sent to.

        Args: as of CollectivePublisher.
        """
        if backend == "nccl":
            leave_nccl_faults_to_us(os.environ)
        self._run_dir = run_dir
        self._backend = backend
        self._device = device
        self._timeout_s = timeout_s
        self._group: BroadcastGroup | None = None

    def assemble(self, fleet: Fleet, deadline: float) -> None:
        """Rebuild the group unless it consists of exactly the members; None without members."""
        while self._group is None or self._group.incarnations != fleet.incarnations():
            if self._group is not None:
                self._group.leave(timeout_s=fleet.order_timeout_s)
                self._group = None
            if time.monotonic() > deadline:
                late = WeightSyncError(f"no answer within {self._timeout_s} s (weights.timeout_s)")
                fleet.drop(dict.fromkeys(fleet.members, late))
            if not fleet.members:
                return
            try:
                self._group = BroadcastGroup(
                    fleet.members,
                    backend=self._backend,
                    device=self._device,
                    # Half of the time that one of two attempts may take, see BroadcastGroup.
                    timeout_s=self._timeout_s / 4,
                )
            except GroupError as error:
                fleet.drop(error.errors)

    def send_all(
        self,
        bucket: Bucket | None,
        later: Iterator[Bucket],
        fleet: Fleet,
        deadline: float,
    ) -> int:
        """Send every bucket while the one after it is made; return the bytes of all.

        ``later`` is read by this thread alone, because its collectives have an order that other
        learner ranks follow. The broadcast may run in another thread: of the learner's ranks, only
        this one is in the broadcast group.
        """
        num_bytes = 0
        with ThreadPoolExecutor(1, thread_name_prefix="weight-sync") as sender:
            while bucket is not None:
                num_bytes += bucket_bytes(bucket)
                made = self._device.mark()
                sending = sender.submit(self._send, bucket, made, fleet, deadline)
                bucket = next(later, None)
                sending.result()
        return num_bytes

    def _send(self, bucket: Bucket, made: Any, fleet: Fleet, deadline: float) -> None:
        """Send one bucket to all members, dropping those that fail until the others have it.

        Loading a bucket twice does no harm, so survivors simply get it again. ``made`` marks when
        the device has computed the bucket.
        """
        self._device.follow(made)
        while fleet.members:
            self.assemble(fleet, deadline)
            if self._group is None:
                return
            try:
                self._group.send(bucket, timeout_s=_attempt_timeout_s(fleet, deadline))
                return
            except GroupError as error:
                self._group = None
                fleet.drop(error.errors)
                self._restart(fleet, error.stuck)

    def _restart(self, fleet: Fleet, names: Set[str]) -> None:
        """Drop servers and have their launcher start them again."""
        known, cause = fleet.members | fleet.dropped, uuid.uuid4().hex
        for name in names:
            request_restart(self._run_dir, known[name].info, cause=cause)
        reason = WeightSyncError("its GPU may wait for ever in the failed broadcast; it restarts")
        fleet.drop(dict.fromkeys(names & fleet.members.keys(), reason))

    def leave(self, *, timeout_s: float) -> None:
        """Destroy the group on both sides, as far as servers answer."""
        if self._group is not None:
            self._group.leave(timeout_s=timeout_s)
            self._group = None


def time_left(deadline: float) -> float:
    """Return the seconds until a deadline of time.monotonic, 0 after it."""
    return max(deadline - time.monotonic(), 0.0)


def _attempt_timeout_s(fleet: Fleet, deadline: float) -> float:
    """Return the time one attempt may take; survivors of a failure need the other half."""
    return time_left(deadline) / (2 if len(fleet.members) > 1 else 1)
