"""Publication by two learner ranks, each of which sends a half of the weights, with faults."""

import os
import time
from collections.abc import Iterator

import pytest
import torch.distributed as dist

from megatron_rl.registry import read_policy_state
from megatron_rl.run_dir import RunDir
from megatron_rl.weight_sync import fleet as fleets
from tests.unit.weight_sync.shard_faults import Fault
from tests.unit.weight_sync.shard_fleet import (
    Nursery,
    ShardServer,
    Source,
    expected,
    next_version,
    open_publisher,
    sends_small_messages,
)

pytestmark = [pytest.mark.lengthy, pytest.mark.distributed]
TIMEOUT_S = 6.0


class Learner:
    """The first of two ranks; the other follows in a process of its own."""

    def __init__(self, run_dir: RunDir) -> None:
        self.source = Source(tp=2, rank=0)
        self.publisher = open_publisher(run_dir, self.source, verify="always", timeout_s=TIMEOUT_S)

    def publish(self) -> set[str]:
        """Publish the next version; return whom the policy state names."""
        self.source.version = next_version(self.source.version + 1)
        started = time.monotonic()
        self.publisher.publish(version=self.source.version)
        assert time.monotonic() - started < 3 * TIMEOUT_S + 5
        state = read_policy_state(self.publisher._run_dir)
        assert state.version == self.source.version
        return set(state.servers)


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    patch = pytest.MonkeyPatch()
    patch.setenv("MASTER_ADDR", "127.0.0.1")
    patch.setattr(fleets, "ORDER_TIMEOUT_S", 1.5)
    sends_small_messages(patch)
    yield patch
    patch.undo()


@pytest.fixture(scope="module")
def nursery(tmp_path_factory, patch) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path_factory.mktemp("logs"))
    yield nursery
    nursery.close()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> RunDir:
    return RunDir(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def learner(nursery, run_dir) -> Iterator[Learner]:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    nursery.ask({"port": store.port, "run_dir": str(run_dir.root), "timeout_s": TIMEOUT_S})
    dist.init_process_group("gloo", store=store, rank=0, world_size=2)
    learner = Learner(run_dir)
    yield learner
    learner.publisher.close()
    next_version(None)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def servers(nursery, run_dir) -> dict[str, ShardServer]:
    servers = {name: nursery.start(run_dir, name, tp=tp) for name, tp in (("a", 1), ("b", 2))}
    for server in servers.values():
        server.register()
    return servers


def assert_has_newest(learner: Learner, server: ShardServer) -> None:
    state = server.state()
    assert [rank["seen"] for rank in state["ranks"]] == expected(
        learner.source.version, len(server.pids)
    )
    assert state["label"] == str(learner.source.version)
    assert state["violations"] == []


FAULTS = [
    Fault(place="describe", kind="garble"),
    Fault(place="join", kind="tamper"),
    Fault(place="join", kind="mute", rank=1),
    Fault(place="message 3", kind="die", rank=1),
    Fault(place="message 6", kind="raise"),
    Fault(place="message 9", kind="flip", rank=1),
    Fault(place="receive", kind="tamper"),
    Fault(place="message 4", kind="stop", rank=1),
    Fault(place="/update_weights_from_tensor", kind="refuse"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.place} {fault.kind}")
def test_faults_of_a_server_with_two_senders_are_its_own(learner, servers, nursery, run_dir, fault):
    assert learner.publish() == {"a", "b"}
    if fault.place in ("describe", "join"):
        servers["b"].register()
    servers["b"].arm(fault)
    named = learner.publish()
    assert "a" in named
    for name in named:
        assert_has_newest(learner, servers[name])
    if not servers["b"].heal():
        servers["b"] = nursery.start(run_dir, "b", tp=2)
    servers["b"].register()
    time.sleep(0.05)
    assert learner.publish() == {"a", "b"}
    for name in ("a", "b"):
        assert_has_newest(learner, servers[name])
    assert learner.publisher._links.refused == {}
    links = set(learner.publisher._links.ranks._part._links)
    assert links == {server.incarnation for server in servers.values()}


def test_both_ranks_send(learner, servers):
    assert learner.publish() == {"a", "b"}
    plans = [link.plan.senders for link in learner.publisher._links.proven.values()]
    assert plans == [(0, 1), (0, 1)]
    assert os.getpid() not in servers["a"].pids
