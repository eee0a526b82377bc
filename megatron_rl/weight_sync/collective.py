"""Broadcast publisher of weights: generation pauses, one broadcast reaches all servers.

Running sequences keep their KV cache and continue under the new weights. Every server is in one
process group with this process; a server that fails is left out, and the group is built anew.
"""

import time
from collections.abc import Iterable
from typing import Literal

from torch import Tensor

from megatron_rl.protocols import DeviceQueue, PublishReport
from megatron_rl.registry import read_policy_state, registered_servers
from megatron_rl.run_dir import RunDir
from megatron_rl.weight_sync.broadcast import Broadcaster, time_left
from megatron_rl.weight_sync.bucketing import into_buckets
from megatron_rl.weight_sync.fleet import Attempts, Fleet, announce


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
        self._run_dir = run_dir
        self._device = device
        self._timeout_s = timeout_s
        self._bucket_bytes = bucket_bytes
        self._broadcaster = Broadcaster(
            run_dir, backend=backend, device=device, timeout_s=timeout_s
        )
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
        self._broadcaster.assemble(fleet, deadline)
        with fleet.updating(
            up_to_date=self._attempts.up_to_date,
            version=version,
            announce=lambda: announce(self._run_dir, self._attempts, fleet, version=version),
        ):
            fleet.order(lambda server: server.begin_update(timeout_s=fleet.order_timeout_s))
            num_bytes = self._broadcaster.send_all(bucket, buckets, fleet, deadline)
            fleet.order(lambda server: server.end_update(timeout_s=time_left(deadline)))
        return PublishReport(
            seconds=time.monotonic() - started_at,
            pause_s=fleet.pause_s,
            num_bytes=num_bytes,
            num_servers=len(fleet.members),
            num_sharded=0,
            received_bytes=num_bytes,
        )

    def close(self) -> None:
        """Destroy the group on both sides, as far as servers answer."""
        self._broadcaster.leave(timeout_s=self._timeout_s)
