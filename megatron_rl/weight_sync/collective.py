"""Broadcast publisher of weights: generation pauses, one broadcast reaches all servers.

Running sequences keep their KV cache and continue under the new weights. Every server is in one
process group with this process; a server that fails is left out, and the group is built anew. While
one bucket is sent, the next is gathered.
"""

import logging
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from torch import Tensor

from megatron_rl.errors import WeightSyncError
from megatron_rl.protocols import DeviceQueue, PublishReport
from megatron_rl.registry import read_policy_state, registered_servers, request_restart
from megatron_rl.run_dir import RunDir
from megatron_rl.weight_sync.bucketing import Bucket, bucket_bytes, into_buckets
from megatron_rl.weight_sync.fleet import Attempts, Fleet, announce
from megatron_rl.weight_sync.group import BroadcastGroup, GroupError
from megatron_rl.weight_sync.nccl_faults import leave_nccl_faults_to_us

logger = logging.getLogger(__name__)


class CollectivePublisher:
    """Publisher that owns the broadcast group, on the learner's rank 0."""

    def __init__(
        self,
        run_dir: RunDir,
        *,
        backend: Literal["gloo", "nccl"],
        device: DeviceQueue,
        timeout_s: float,
        bucket_bytes: int,
        retry_after_s: float,
    ) -> None:
        """Prepare; servers join at the first publication.

        With NCCL, build no other group of this process later: a failure in it would go unnoticed.

        Args:
            run_dir: where servers register and the policy state is published.
            backend: of the broadcast; gloo wherever a server computes on the CPU.
            device: where ``backend`` needs the tensors, and where they are computed.
            timeout_s: longest time one publication waits for servers.
            bucket_bytes: tensors sent with one request; two buckets are held at a time.
            retry_after_s: see Attempts.
        """
        if backend == "nccl":
            leave_nccl_faults_to_us(os.environ)
        self._run_dir = run_dir
        self._backend = backend
        self._device = device
        self._timeout_s = timeout_s
        self._bucket_bytes = bucket_bytes
        self._group: BroadcastGroup | None = None
        self._attempts = Attempts(retry_after_s=retry_after_s)

    def pending(self) -> bool:
        """Return whether a registered server has not acknowledged the current version."""
        registered = registered_servers(self._run_dir)
        return self._attempts.is_pending(registered, read_policy_state(self._run_dir))

    def publish(self, weights: Iterable[tuple[str, Tensor]], *, version: int) -> PublishReport:
        """Send ``version`` to all registered servers and name it in the policy state.

        Args:
            weights: Hugging Face names and whole tensors, on any device. Read to its end even
                when no server is left, since other ranks may gather along.
            version: label of the tokens sampled from now on.
        """
        started_at = time.monotonic()
        buckets = into_buckets(weights, max_bytes=self._bucket_bytes)
        bucket = next(buckets, None)
        # The first bucket is there before anything pauses, not merely asked for, and so is the
        # optimiser step before it.
        self._device.synchronize()
        deadline = time.monotonic() + self._timeout_s
        servers = self._attempts.may_try(registered_servers(self._run_dir))
        fleet = Fleet(servers, timeout_s=self._timeout_s)
        fleet.order(lambda server: server.weight_version(timeout_s=fleet.order_timeout_s))
        self._assemble(fleet, deadline)
        with fleet.updating(
            up_to_date=self._attempts.up_to_date,
            version=version,
            announce=lambda: announce(self._run_dir, self._attempts, fleet, version=version),
        ):
            fleet.order(lambda server: server.begin_update(timeout_s=fleet.order_timeout_s))
            num_bytes = self._send_all(bucket, buckets, fleet, deadline)
            fleet.order(lambda server: server.end_update(timeout_s=_time_left(deadline)))
        return PublishReport(
            seconds=time.monotonic() - started_at,
            pause_s=fleet.pause_s,
            num_bytes=num_bytes,
            num_servers=len(fleet.members),
        )

    def close(self) -> None:
        """Destroy the group on both sides, as far as servers answer."""
        if self._group is not None:
            self._group.leave(timeout_s=self._timeout_s)
            self._group = None

    def _send_all(
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
            self._assemble(fleet, deadline)
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

    def _assemble(self, fleet: Fleet, deadline: float) -> None:
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


def _time_left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.0)


def _attempt_timeout_s(fleet: Fleet, deadline: float) -> float:
    """Return the time one attempt may take; survivors of a failure need the other half."""
    return _time_left(deadline) / (2 if len(fleet.members) > 1 else 1)
