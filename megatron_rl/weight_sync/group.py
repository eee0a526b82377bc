"""Process group of one broadcast: this process is rank 0, the servers are the other ranks.

The group lives beside torch's default group, whether or not there is one. SGLang enters it through
torch's ``_new_process_group_helper``; both sides must build it alike, hence the private name here.
"""

import datetime
import functools
import logging
import queue
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d

from megatron_rl.errors import WeightSyncError
from megatron_rl.protocols import DeviceQueue
from megatron_rl.weight_sync.admin import ServerAdmin, ServerRefusedError
from megatron_rl.weight_sync.bucketing import Bucket, as_bytes, describe, is_sent_as_bytes
from megatron_rl.weight_sync.fleet import errors_of, on_each
from megatron_rl.weight_sync.meeting import Meeting
from megatron_rl.weight_sync.nccl_faults import abort_group, end_group, forget_group

logger = logging.getLogger(__name__)

T = TypeVar("T")

_POLL_S = 0.0005


class GroupError(Exception):
    """The group is broken; ``errors`` has the failure of each server to blame, by name.

    ``stuck`` names servers, blamed or not, that are of no use until they are started again.
    """

    def __init__(
        self, errors: Mapping[str, WeightSyncError], *, stuck: frozenset[str] = frozenset()
    ) -> None:
        super().__init__("; ".join(str(error) for error in errors.values()))
        self.errors = dict(errors)
        self.stuck = stuck


class BroadcastGroup:
    """An open process group; construction joins the servers and raises GroupError.

    Joining and each broadcast may take ``timeout_s``. A server that waits for a silent peer is
    released no earlier, so orders to servers must be given more time than that.
    """

    def __init__(
        self,
        servers: Mapping[str, ServerAdmin],
        *,
        backend: str,
        device: DeviceQueue,
        timeout_s: float,
    ) -> None:
        self.incarnations = {name: server.info.incarnation for name, server in servers.items()}
        self._servers = dict(servers)
        self._device = device
        self._timeout_s = timeout_s
        # NCCL connects its ranks in the first broadcast, and waits for them without an end.
        self._connects_late = self._is_nccl = backend == "nccl"
        self._name = f"megatron_rl_{uuid.uuid4().hex[:12]}"
        self._group: dist.ProcessGroup | None = self._join(backend)

    def send(self, bucket: Bucket, *, timeout_s: float) -> None:
        """Broadcast a bucket; return when every server uses it.

        Args:
            bucket: whole tensors under Hugging Face names, on any device. What computes them there
                comes before this in the order of the calling thread, see ``DeviceQueue``.
            timeout_s: longest time a server may take, more than that of the group.

        Raises:
            GroupError: a server did not take it. The group is closed, so that no server waits for
                a tensor that never comes. Servers named in neither ``errors`` nor ``stuck`` are
                well, but may have missed the bucket.
        """
        there = [(name, t.detach().to(self._device.device).contiguous()) for name, t in bucket]
        is_flat = is_sent_as_bytes(there)
        tensors = [tensor for _, tensor in there]
        if is_flat:
            there, flat = as_bytes(there)
            tensors = [flat]
        headers = [describe(name, tensor) for name, tensor in there]

        def receive(server: ServerAdmin) -> None:
            server.receive(headers, is_flat=is_flat, group_name=self._name, timeout_s=timeout_s)

        with ThreadPoolExecutor(len(self._servers), thread_name_prefix="weight-sync") as pool:
            answers: dict[str, Future[object]] = {
                name: pool.submit(receive, server) for name, server in self._servers.items()
            }
            is_sent = self._broadcast(tensors, answers)
            early = errors_of({name: answer for name, answer in answers.items() if answer.done()})
            if not is_sent:
                self._abort()  # servers that still wait for the broadcast will refuse
        errors = errors_of(answers)
        if not is_sent or errors:
            self._abort()
            stuck = stuck_servers(self._servers, errors, is_nccl=self._is_nccl, is_sent=is_sent)
            raise GroupError(_unresponsive(errors) or early or errors, stuck=stuck)

    def leave(self, *, timeout_s: float) -> None:
        """Destroy the group on both sides; servers that are gone or refuse are left alone.

        Both sides at once, since the end of an NCCL rank may wait for that of the others on its
        node. A server that never ends is not waited for.
        """
        group, self._group = self._group, None
        deadline = time.monotonic() + timeout_s
        with ThreadPoolExecutor(1, thread_name_prefix="weight-sync") as pool:
            theirs = pool.submit(
                on_each,
                self._servers,
                lambda server: server.leave_group(self._name, timeout_s=timeout_s),
            )
            if group is not None:
                end = functools.partial(end_group, group)
                if result_of_thread(end, is_over=lambda: time.monotonic() > deadline) is None:
                    forget_group(group)
            theirs.result()

    def _abort(self) -> None:
        """Destroy our side of a broken group without waiting for its operations."""
        group, self._group = self._group, None
        if group is not None:
            abort_group(group)
            end_group(group)

    def _join(self, backend: str) -> dist.ProcessGroup:
        """Join all servers through a TCPStore on a port that the kernel chooses."""
        if backend == "nccl" and dist.is_initialized():
            default = distributed_c10d._get_default_group()
            assert default.bound_device_id is None, (
                "torch would split this group off the learner's: call init_process_group without "
                f"device_id (it has {default.bound_device_id})"
            )
        timeout = datetime.timedelta(seconds=self._timeout_s)
        ranks, first_rank = {}, 1
        for name, server in self._servers.items():
            ranks[name] = range(first_rank, first_rank + server.info.tp)
            first_rank += server.info.tp
        meeting = self._meeting = Meeting(ranks, timeout)
        with ThreadPoolExecutor(len(self._servers), thread_name_prefix="weight-sync") as pool:
            answers: dict[str, Future[object]] = {
                name: pool.submit(
                    server.join_group,
                    group_name=self._name,
                    master=(address_seen_by(server), meeting.port),
                    first_rank=ranks[name].start,
                    world_size=meeting.world_size,
                    backend=backend,
                    timeout_s=2 * self._timeout_s,
                )
                for name, server in self._servers.items()
            }
            if not self._is_nccl:  # over which joining waits for nobody
                for name, answer in answers.items():
                    answer.add_done_callback(functools.partial(meeting.end_if_failed, name))
            try:
                group, _ = distributed_c10d._new_process_group_helper(
                    meeting.world_size,
                    0,
                    [],
                    distributed_c10d.Backend(backend),
                    # SGLang wraps its store in the same prefix.
                    dist.PrefixStore(self._name, meeting.connection),
                    group_name=distributed_c10d.GroupName(self._name),
                    # NCCL kills the process when this expires, so we give up before it does.
                    timeout=2 * timeout if backend == "nccl" else timeout,
                )
                distributed_c10d._world.pg_group_ranks[group] = {
                    i: i for i in range(meeting.world_size)
                }
                failure = None
            except RuntimeError as error:  # also DistStoreError and DistNetworkError
                group, failure = None, f"{type(error).__name__}: {error}"
                meeting.end()
        errors = errors_of(answers)
        if failure is None and not errors:
            return group
        meeting.end()
        if group is not None:
            end_group(group)
        if not errors:
            errors = {name: WeightSyncError(failure) for name in self._servers}
        blamed = {name: errors[name] for name in meeting.culprits if name in errors}
        raise GroupError(_unresponsive(errors) or blamed or errors)

    def _broadcast(self, tensors: list[Tensor], answers: Mapping[str, Future[object]]) -> bool:
        """Send all tensors; return False as soon as a server fails or time is up."""
        deadline = time.monotonic() + self._timeout_s

        def is_over() -> bool:
            return time.monotonic() > deadline or _has_failed(answers)

        group, made = self._group, self._device.mark()
        assert group is not None

        def start() -> list[dist.Work]:
            self._device.follow(made)
            return [dist.broadcast(t, src=0, group=group, async_op=True) for t in tensors]

        try:
            works = (
                # What it may still send is of no use, and nobody else would end it.
                result_of_thread(start, is_over=is_over, when_late=lambda: abort_group(group))
                if self._connects_late
                else start()
            )
            if works is None:
                # The thread uses the group, which must not be destroyed before the thread returns.
                self._group = None
                forget_group(group)
                return False
            self._connects_late = False
            for work in works:
                while not work.is_completed():
                    if is_over():
                        return False
                    time.sleep(_POLL_S)
                work.wait()
        except RuntimeError as error:  # a peer closed its connection
            # Logged as text: a record that kept the exception would keep its frame, with it
            # ``works``, and with them open the connections on which the servers wait.
            logger.warning("broadcast of weights failed: %s", str(error))
            return False
        return True


def result_of_thread(
    function: Callable[[], T],
    *,
    is_over: Callable[[], bool],
    when_late: Callable[[], object] = lambda: None,
) -> T | None:
    """Call the function in a thread; once ``is_over``, abandon the thread and return None.

    Args:
        function: returns something, or may never return.
        is_over: whether to give it up.
        when_late: called by the thread when the function returns after it was given up.

    Raises:
        RuntimeError: the function raised it.
    """
    outcomes: queue.SimpleQueue[T | RuntimeError] = queue.SimpleQueue()
    is_abandoned, deciding = False, threading.Lock()

    def run() -> None:
        try:
            outcome: T | RuntimeError = function()
        except RuntimeError as error:
            outcome = error
        with deciding:
            outcomes.put(outcome)
            is_late = is_abandoned
        if is_late:
            when_late()

    # A daemon: a call that never returns must not keep the process from ending.
    threading.Thread(target=run, name="weight-sync-connect", daemon=True).start()
    while outcomes.empty():
        if is_over():
            with deciding:
                is_abandoned = outcomes.empty()
            if is_abandoned:
                return None
        time.sleep(_POLL_S)
    outcome = outcomes.get()
    if isinstance(outcome, RuntimeError):
        raise outcome
    return outcome


def stuck_servers(
    servers: Iterable[str], errors: Mapping[str, WeightSyncError], *, is_nccl: bool, is_sent: bool
) -> frozenset[str]:
    """Return the servers whose GPU may wait for ever in a broadcast that failed.

    SGLang waits for NCCL on the GPU's stream only: a server answers that all is well while its GPU
    still waits for a peer that is gone, and whatever it does next queues behind that. Over gloo the
    server itself waits, and refuses once the connection closes.
    """
    is_whole = is_sent and not _unresponsive(errors)
    return frozenset(servers) if is_nccl and not is_whole else frozenset()


def _unresponsive(errors: Mapping[str, WeightSyncError]) -> dict[str, WeightSyncError]:
    """Return the servers that did not answer at all.

    These servers are to blame: servers that waited for them answer with a refusal.
    """
    return {
        name: error for name, error in errors.items() if not isinstance(error, ServerRefusedError)
    }


def address_seen_by(server: ServerAdmin) -> str:
    """Return the address of this machine on the way to a server."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(server.address)  # a datagram socket: nothing is sent
        return str(probe.getsockname()[0])


def _has_failed(answers: Mapping[str, Future[object]]) -> bool:
    return any(answer.done() and answer.exception() is not None for answer in answers.values())
