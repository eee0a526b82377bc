"""Publication by shards to three servers of which one has a fault, at every border there is.

Only the faults are made up: the learner's part, the plug-in and gloo are real, in processes of
their own.
"""

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from megatron_rl.protocols import PublishReport
from megatron_rl.registry import (
    INCOMPLETE_WEIGHTS,
    read_policy_state,
    registered_servers,
    withdraw_policy_state,
)
from megatron_rl.run_dir import RunDir
from megatron_rl.transfers import read_transfers
from megatron_rl.weight_sync import fleet as fleets
from tests.unit.weight_sync.shard_faults import Fault
from tests.unit.weight_sync.shard_fleet import (
    Nursery,
    ShardServer,
    Source,
    expected,
    open_publisher,
    sends_small_messages,
)

pytestmark = [pytest.mark.lengthy, pytest.mark.distributed]
TIMEOUT_S = 20.0
NAMES = ("a", "b", "c")


class Fleet:
    """Servers, and a learner of one rank that publishes to them."""

    def __init__(self, folder: Path, nursery: Nursery, *, tp: int = 1) -> None:
        self.run_dir = RunDir(folder)
        self.tp = tp
        self._nursery = nursery
        self.servers = {name: self._start(name) for name in NAMES}
        self.version = 0
        self.begin("admission")

    def begin(self, verify, timeout_s: float = TIMEOUT_S) -> None:
        """Begin a life of the learner, after the end of the one before."""
        if self.version:
            self.publisher.close()
            self.publisher._links.leave(list(self.publisher._links.proven))
        withdraw_policy_state(self.run_dir)
        self.timeout_s = timeout_s
        self.source = Source()
        self.publisher = open_publisher(
            self.run_dir, self.source, verify=verify, timeout_s=timeout_s
        )

    def publish(self) -> PublishReport:
        self.version += 1
        self.source.version = self.version
        started = time.monotonic()
        report = self.publisher.publish(version=self.version)
        # A publication that fails half way has servers of two kinds to wait for, and to mend.
        assert time.monotonic() - started < 3 * self.timeout_s + 5
        assert report.num_sharded <= report.num_servers
        return report

    def named(self) -> set[str]:
        state = read_policy_state(self.run_dir)
        assert state is not None and state.version == self.version
        registered = registered_servers(self.run_dir)
        return {n for n, i in state.servers.items() if registered[n].incarnation == i}

    def check(self, name: str, *, is_new: bool) -> None:
        """Check what a server has and has done; ``is_new``: it must have the newest weights."""
        state = self.servers[name].state()
        seen = [rank["seen"] for rank in state["ranks"]]
        if is_new:
            assert name in self.named()
        if name in self.named():
            assert state["label"] == str(self.version)
            assert not state["is_paused"]
        self._check_label(state["label"], seen, name)
        for resumed in state["resumed"]:
            if resumed["is_routable"] or resumed["label"] != INCOMPLETE_WEIGHTS:
                self._check_label(resumed["label"], [resumed["seen"]], name)
            assert not (resumed["is_routable"] and resumed["label"] == INCOMPLETE_WEIGHTS), name
        assert state["violations"] == []

    def _check_label(self, label: str, seen: list[dict[str, str]], name: str) -> None:
        """Whatever is labelled as a version is that version."""
        if label not in (INCOMPLETE_WEIGHTS, "none"):
            assert seen == expected(int(label), self.tp)[: len(seen)], (name, label)

    def links(self) -> set[str]:
        """Return the incarnations that the learner has a group with."""
        return set(self.publisher._links.ranks._part._links)

    def check_nothing_is_left(self) -> None:
        assert self.links() == set(self.publisher._links.proven)
        assert self.links() <= {server.incarnation for server in self.servers.values()}
        left = [t.name for t in threading.enumerate() if t.name.startswith("weight-sync")]
        assert left == []

    def heal(self, name: str) -> None:
        if not self.servers[name].heal():
            self.servers[name] = self._start(name)

    def publish_until_all_are_back(self) -> None:
        """A server that failed is tried again after a moment."""
        for _ in range(3):
            time.sleep(0.05)
            self.publish()
            if self.named() == set(NAMES):
                break
        for name in NAMES:
            self.check(name, is_new=True)

    def _start(self, name: str) -> ShardServer:
        server = self._nursery.start(self.run_dir, name, tp=self.tp)
        server.register()
        return server

    def end(self) -> None:
        self.publisher.close()
        for server in self.servers.values():
            server.kill()


@pytest.fixture(scope="module")
def nursery(tmp_path_factory) -> Iterator[Nursery]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    nursery = Nursery(tmp_path_factory.mktemp("logs"))
    patch = pytest.MonkeyPatch()
    sends_small_messages(patch)
    patch.setattr(fleets, "ORDER_TIMEOUT_S", 1.5)  # as small a part of all as it is by default
    yield nursery
    patch.undo()
    nursery.close()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def fleet(nursery, tmp_path_factory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("run"), nursery)
    yield fleet
    fleet.end()


def test_all_is_well_without_faults(fleet):
    for num_sharded in (0, 3, 3):
        report = fleet.publish()
        assert (report.num_servers, report.num_sharded) == (3, num_sharded)
        for name in NAMES:
            fleet.check(name, is_new=True)
    fleet.check_nothing_is_left()


ROUTES = (
    "/model_info",
    "/pause_generation",
    "/flush_cache",
    "/update_weight_version",
    "/begin_weight_update",
    "/end_weight_update",
    "/init_weights_update_group",
    "/update_weights_from_distributed",
    "/destroy_weights_update_group",
    "/update_weights_from_tensor",
    "/continue_generation",
    "/abort_request",
)
BROADCAST = ("/init_weights_update_group", "/update_weights_from_distributed")
OF_ADMISSION = (
    "/flush_cache",
    *BROADCAST,
    "describe",
    "join",
    "fingerprints",
    "poison",
)
OPS = ("describe", "join", "fingerprints", "poison", "receive")
QUICK = ("die", "slow")
HANGING = ("hang", "stop")
AT_ROUTES = ("refuse", "no_success", "close")
AT_OPS = ("tamper", "mute", "garble", "corrupt", "wrong_map", "bad_map")
AT_MESSAGES = ("flip", "raise")
NUM_MESSAGES = 24


def random_fault(draw: random.Random, *, hangs: bool, tp: int) -> Fault:
    everywhere = HANGING if hangs else QUICK
    place = draw.choice(("route", "op", "op", "message"))
    if place == "route":
        kinds = everywhere if hangs else (*QUICK, *AT_ROUTES)
        kind = draw.choice(kinds)
        after = kind in ("die", "close", "hang", "stop") and draw.random() < 0.5
        times = draw.choice((1, 1, 2, -1)) if kind in AT_ROUTES else 1
        skip = draw.choice((0, 0, 1, 2))
        name = draw.choice(ROUTES)
        return Fault(place=name, kind=kind, after=after, seconds=0.2, times=times, skip=skip)
    rank = draw.randrange(tp)
    if place == "message":
        kind = draw.choice(everywhere if hangs else (*QUICK, *AT_MESSAGES))
        number = draw.randrange(NUM_MESSAGES)
        return Fault(place=f"message {number}", kind=kind, rank=rank, seconds=0.2)
    kind = draw.choice(everywhere if hangs else (*QUICK, *AT_OPS))
    name = draw.choice(OPS)
    if kind in ("wrong_map", "bad_map"):
        name = "describe"
    if kind == "corrupt":
        name = "receive"
    after = kind in ("die", "hang", "stop") and draw.random() < 0.5
    skip = draw.choice((0, 0, 1)) if name == "fingerprints" else 0
    return Fault(place=name, kind=kind, after=after, rank=rank, seconds=0.2, skip=skip)


def is_found(fault: Fault, verify: str, *, is_newcomer: bool) -> bool:
    """Whether what arrives wrong without a failure is looked for; all other faults are failures."""
    if fault.kind == "flip":
        return verify == "always" or (verify == "admission" and is_newcomer)
    if fault.kind in ("corrupt", "wrong_map"):
        return verify != "never" and is_newcomer
    return True


def have_fault(fleet: Fleet, fault: Fault, *, newcomers: str) -> None:
    """Publish with a fault of one server; then without, until it is back."""
    for name in newcomers:
        fleet.servers[name].register()
    fleet.servers["b"].arm(fault)
    fleet.publish()
    for name in ("a", "c"):
        fleet.check(name, is_new=True)
    fleet.check_nothing_is_left()
    fleet.heal("b")
    fleet.check("b", is_new=False)
    fleet.publish_until_all_are_back()
    fleet.check_nothing_is_left()


def have_random_faults(
    fleet: Fleet, seed: int, count: int, *, share_hanging: float, timeout_s: float = TIMEOUT_S
) -> None:
    draw = random.Random(seed)
    verify = draw.choice(("always", "admission", "admission", "never"))
    fleet.begin(verify, timeout_s)
    fleet.publish()
    for index in range(count):
        fault = random_fault(draw, hangs=draw.random() < share_hanging, tp=fleet.tp)
        # A broadcast over gloo is passed on by servers: one that refuses to join, or to receive,
        # takes others with it until the next publication.
        is_shared = fault.place in BROADCAST
        newcomers = "b" if is_shared else draw.choice(("b", "abc", "bc"))
        if fault.place not in OF_ADMISSION:
            newcomers = draw.choice(("", newcomers))
        is_newcomer = "b" in newcomers
        if not is_found(fault, verify, is_newcomer=is_newcomer):
            continue
        try:
            have_fault(fleet, fault, newcomers=newcomers)
        except BaseException as error:
            error.add_note(f"seed {seed}, number {index}, {verify}, {newcomers=}: {fault}")
            raise
        if fleet.servers["b"].incarnation in fleet.publisher._links.refused:
            fleet.servers["b"].register()
            fleet.publish()


@pytest.mark.parametrize("seed", [0, 2])
def test_random_faults_of_one_server_are_its_own(fleet, seed):
    have_random_faults(fleet, seed, 12, share_hanging=0.0)


@pytest.mark.parametrize(("place", "newcomers"), [("message 5", ""), ("/end_weight_update", "abc")])
def test_a_server_that_stops_costs_the_others_time_only(fleet, place, newcomers):
    fleet.begin("admission", timeout_s=5.0)
    fleet.publish()
    have_fault(fleet, Fault(place=place, kind="stop"), newcomers=newcomers)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("wrong_map", "shards give other values in "),
        ("corrupt", "shards give other values in "),
        ("tamper", "refused"),
        ("mute", "has no answer to "),
        ("garble", "without a valid "),
        ("bad_map", "what its loader does cannot be read: not a copy: ['no map']"),
    ],
)
def test_a_server_that_shards_do_not_suit_is_sent_whole_tensors_and_one_warning_why(
    fleet, caplog, kind, reason
):
    fleet.begin("admission")
    place = {"corrupt": "receive", "tamper": "poison", "mute": "fingerprints"}.get(kind, "describe")
    fleet.servers["b"].register()
    fleet.servers["b"].arm(Fault(place=place, kind=kind))
    for num_sharded in (0, 2, 2):
        report = fleet.publish()
        assert (report.num_servers, report.num_sharded) == (3, num_sharded)
        for name in NAMES:
            fleet.check(name, is_new=True)
    (warning,) = [r.getMessage() for r in caplog.records if "instead of shards" in r.msg]
    assert reason in warning
    transfer = read_transfers(fleet.run_dir)["b"]
    assert transfer.transport == "broadcast"
    assert reason in transfer.reason
    fleet.servers["b"].register()  # another life, in which nothing is wrong
    fleet.publish_until_all_are_back()
    assert fleet.publish().num_sharded == 3


def test_a_server_without_the_loader_is_sent_whole_tensors_and_the_record_says_why(fleet):
    fleet.begin("admission")
    fleet.servers["b"].register(takes_shards=False)
    for num_sharded in (0, 2):
        report = fleet.publish()
        assert (report.num_servers, report.num_sharded) == (3, num_sharded)
        for name in NAMES:
            fleet.check(name, is_new=True)
    transfer = read_transfers(fleet.run_dir)["b"]
    assert transfer.transport == "broadcast"
    assert transfer.reason == "it was started without the loader of shards"
    fleet.servers["b"].register()
    fleet.publish_until_all_are_back()
    assert fleet.publish().num_sharded == 3


def test_a_bit_that_flips_on_its_way_is_found_and_the_server_left_out(fleet, caplog):
    fleet.begin("always")
    fleet.publish()
    fleet.servers["b"].arm(Fault(place="message 7", kind="flip"))
    fleet.publish()
    assert fleet.named() == {"a", "c"}
    assert "message 7 of " in caplog.text
    assert "arrived changed" in caplog.text
    fleet.publish_until_all_are_back()


@pytest.mark.parametrize(
    "fault",
    [
        Fault(place="join", kind="tamper"),
        Fault(place="receive", kind="tamper"),
        Fault(place="/update_weights_from_tensor", kind="refuse", skip=2),
    ],
)
def test_nobody_waits_for_a_server_that_refuses(fleet, fault):
    """The learner's ranks would, for shares of a time that is long here."""
    fleet.begin("never", timeout_s=200.0)
    if fault.place != "join":
        fleet.publish()
    started = time.monotonic()
    fleet.servers["b"].arm(fault)
    fleet.publish()
    assert time.monotonic() - started < 40
    for name in ("a", "c"):
        fleet.check(name, is_new=True)
    fleet.check_nothing_is_left()
    fleet.heal("b")
    fleet.publish_until_all_are_back()


def test_slow_messages_count_together(fleet):
    """Each takes less than the learner waits, and all of them more."""
    fleet.begin("never", timeout_s=6.0)
    fleet.publish()
    fleet.servers["b"].arm(Fault(place="message", kind="slow", seconds=0.5, times=-1))
    fleet.publish()
    assert fleet.named() == {"a", "c"}
    fleet.heal("b")
    fleet.publish_until_all_are_back()


def test_what_is_known_of_a_server_goes_with_it(fleet):
    fleet.begin("admission")
    fleet.servers["b"].register()
    fleet.servers["b"].arm(Fault(place="describe", kind="garble"))
    fleet.publish()
    assert set(fleet.publisher._links.refused) == {fleet.servers["b"].incarnation}
    fleet.servers["b"].register()
    fleet.publish_until_all_are_back()
    assert fleet.publisher._links.refused == {}
    fleet.check_nothing_is_left()


@pytest.fixture(scope="module")
def fleet_of_two_ranks(nursery, tmp_path_factory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("run2"), nursery, tp=2)
    yield fleet
    fleet.end()


def test_faults_of_one_rank_of_a_server_are_the_servers(fleet_of_two_ranks):
    have_random_faults(fleet_of_two_ranks, 202, 5, share_hanging=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1020))
def test_a_thousand_random_faults(fleet, seed):
    have_random_faults(fleet, seed, 50, share_hanging=0.1, timeout_s=8.0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2000, 2004))
def test_two_hundred_random_faults_of_servers_of_two_ranks(fleet_of_two_ranks, seed):
    have_random_faults(fleet_of_two_ranks, seed, 50, share_hanging=0.1, timeout_s=8.0)
