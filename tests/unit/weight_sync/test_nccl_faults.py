"""A broadcast over NCCL that fails ends neither the learner's process nor hangs its end.

Torch's part of it was read in ProcessGroupNCCL: its watchdog throws unless it is told not to, abort
gives up with an error after a while, and destroying the default group waits for all groups.
"""

import threading

import pytest
import torch
import torch.distributed as dist

from megatron_rl.errors import WeightSyncError
from megatron_rl.learner.device.platform import CpuPlatform
from megatron_rl.placement.gpu_environment import LEARNER_DEFAULTS
from megatron_rl.registry import registered_servers
from megatron_rl.run_dir import RunDir
from megatron_rl.weight_sync import broadcast, group, nccl_faults
from megatron_rl.weight_sync.admin import ServerAdmin
from megatron_rl.weight_sync.collective import CollectivePublisher
from megatron_rl.weight_sync.group import BroadcastGroup, GroupError, result_of_thread
from tests.late_device import LateDevice
from tests.unit.weight_sync.receiving_server import ReceivingServer

WATCHDOG = "TORCH_NCCL_ASYNC_ERROR_HANDLING"


@pytest.mark.parametrize("backend", ["nccl", "gloo"])
def test_torchs_watchdog_leaves_failed_broadcasts_to_the_publisher(backend, tmp_path, monkeypatch):
    environment = {WATCHDOG: "3"}
    monkeypatch.setattr(broadcast.os, "environ", environment)
    CollectivePublisher(
        RunDir(tmp_path),
        backend=backend,
        device=CpuPlatform(num_threads=1),
        timeout_s=1.0,
        bucket_bytes=8,
        retry_after_s=1.0,
    )
    assert environment[WATCHDOG] == ("0" if backend == "nccl" else "3")


def test_the_monitor_of_the_learners_own_group_is_told_before_it_starts():
    assert LEARNER_DEFAULTS["TORCH_NCCL_DUMP_ON_TIMEOUT"] == "0"
    # Its own failures still end it: only groups of later are left to the publisher.
    assert WATCHDOG not in LEARNER_DEFAULTS


class TiredGroup:
    """A group whose abort NCCL does not finish in time."""

    def abort(self) -> None:
        raise dist.DistBackendError("ProcessGroup abort timed out")


def test_an_abort_that_nccl_gives_up_is_no_failure_of_the_learner(monkeypatch, caplog):
    def destroy(_: object) -> None:
        raise dist.DistBackendError("communicator was aborted")

    monkeypatch.setattr(nccl_faults.dist, "destroy_process_group", destroy)
    tired = TiredGroup()
    nccl_faults.abort_group(tired)
    assert not nccl_faults.end_group(tired)
    assert "abort timed out" in caplog.text and "was aborted" in caplog.text


def test_a_call_that_returns_too_late_is_cleaned_up_after_and_one_in_time_is_not():
    may_return, cleaned = threading.Event(), threading.Event()
    assert result_of_thread(lambda: 1, is_over=lambda: False, when_late=cleaned.set) == 1
    assert not cleaned.is_set()
    late = result_of_thread(
        lambda: may_return.wait(10), is_over=lambda: True, when_late=cleaned.set
    )
    assert late is None and not cleaned.is_set()
    may_return.set()
    assert cleaned.wait(10)


def test_a_first_broadcast_that_never_returns_is_forgotten_and_ended_when_it_does(
    tmp_path, monkeypatch
):
    """NCCL connects in the first broadcast, and may wait there for a server that is gone."""
    run_dir, may_return, aborted = RunDir(tmp_path), threading.Event(), []

    def never(*_: object, **__: object) -> None:
        may_return.wait(20)

    with ReceivingServer(run_dir, "a", []) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        server.register()
        servers = {"a": ServerAdmin(registered_servers(run_dir)["a"])}
        ours = BroadcastGroup(servers, backend="gloo", device=LateDevice(), timeout_s=0.3)
        ours._connects_late = ours._is_nccl = True
        server.groups.clear()  # it dies: no peer takes part
        held = ours._group
        monkeypatch.setattr(group.dist, "broadcast", never)
        monkeypatch.setattr(group, "abort_group", aborted.append)
        with pytest.raises(GroupError) as failure:
            ours.send([("w", torch.zeros(2))], timeout_s=1.0)
        server.shutdown()
    assert isinstance(failure.value.errors["a"], WeightSyncError)
    assert held not in dist.distributed_c10d._world.pg_names
    assert aborted == []  # the thread still uses it
    may_return.set()
    for thread in threading.enumerate():
        if thread.name == "weight-sync-connect":
            thread.join(10)
    assert aborted == [held]
