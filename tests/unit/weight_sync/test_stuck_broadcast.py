"""A broadcast that fails over NCCL: every server of it starts again, and none is tried before."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch

from megatron_rl.errors import WeightSyncError
from megatron_rl.learner.device.platform import CpuPlatform
from megatron_rl.programs import serve
from megatron_rl.registry import (
    PolicyState,
    read_policy_state,
    registered_servers,
    request_restart,
    restart_request,
)
from megatron_rl.run_dir import RunDir
from megatron_rl.weight_sync import broadcast
from megatron_rl.weight_sync.admin import ServerAdmin, ServerRefusedError
from megatron_rl.weight_sync.collective import CollectivePublisher
from megatron_rl.weight_sync.group import GroupError, stuck_servers
from tests.unit.weight_sync.test_faults import Order, Server

GONE, REFUSED = WeightSyncError("gone"), ServerRefusedError("no")


@pytest.mark.parametrize(
    ("is_nccl", "is_sent", "errors", "are_stuck"),
    [
        (True, False, {"b": GONE}, True),
        (True, False, {}, True),  # all have answered, and ours never ended
        (True, True, {"b": GONE}, True),  # it may have died before it passed the data on
        (True, True, {"b": REFUSED}, False),  # it lives, and all took part
        (False, False, {"b": GONE}, False),  # gloo: the others refuse
    ],
)
def test_servers_may_be_stuck_when_nccl_did_not_end_everywhere(is_nccl, is_sent, errors, are_stuck):
    found = stuck_servers(["a", "b"], errors, is_nccl=is_nccl, is_sent=is_sent)
    assert found == (frozenset("ab") if are_stuck else frozenset())


class Group:
    """A group of two servers over NCCL, of which b dies in the first broadcast."""

    num_built = 0

    def __init__(self, servers: Mapping[str, ServerAdmin], **_: object) -> None:
        type(self).num_built += 1
        self.incarnations = {name: server.info.incarnation for name, server in servers.items()}

    def send(self, *_: object, **__: object) -> None:
        raise GroupError({"b": GONE}, stuck=frozenset(self.incarnations))


@pytest.fixture
def run_dir(tmp_path) -> Iterator[RunDir]:
    """A run with two servers that do as told over HTTP."""
    run_dir = RunDir(tmp_path)
    orders: list[Order] = []
    with ExitStack() as stack:
        for name in ("a", "b"):
            server = stack.enter_context(Server(run_dir, name, orders))
            threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
            stack.callback(server.shutdown)
            server.register()
        yield run_dir


def test_survivors_of_a_broken_broadcast_start_again_and_get_nothing_before(run_dir, monkeypatch):
    monkeypatch.setattr(broadcast, "BroadcastGroup", Group)
    publisher = CollectivePublisher(
        run_dir,
        backend="nccl",
        device=CpuPlatform(num_threads=1),
        timeout_s=5.0,
        bucket_bytes=8,
        retry_after_s=30.0,
    )
    weights = iter([(f"w{i}", torch.zeros(2)) for i in range(3)])
    report = publisher.publish(weights, version=3)
    assert next(weights, None) is None  # other ranks gather along
    assert (report.num_servers, Group.num_built) == (0, 1)
    assert read_policy_state(run_dir) == PolicyState(version=3, servers={})
    requests = [restart_request(run_dir, name) for name in ("a", "b")]
    assert requests[0] is not None and requests[0] == requests[1]
    assert requests[0].incarnation == "i"


def test_serve_ends_the_incarnation_that_is_not_wanted_and_no_other(run_dir, capsys):
    info = registered_servers(run_dir)["a"]
    assert not serve._is_unwanted(run_dir, info)
    request_restart(run_dir, info, cause="x")
    assert serve._is_unwanted(run_dir, info)
    server, stop = SimpleNamespace(poll=lambda: None), SimpleNamespace(is_set=False)
    code = serve._watch(server, "a", stop, is_unwanted=lambda: serve._is_unwanted(run_dir, info))
    assert code == 1
    assert "a is to start again" in capsys.readouterr().err
    successor = SimpleNamespace(name="a", incarnation="j")
    assert not serve._is_unwanted(run_dir, successor)
    assert restart_request(run_dir, "a") is None  # of the one before
