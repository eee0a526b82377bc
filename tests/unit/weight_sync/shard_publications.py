"""Publications to three servers of shards, one with a fault, and what must hold after them."""

import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from megatron_rl.protocols import PublishReport
from megatron_rl.registry import (
    INCOMPLETE_WEIGHTS,
    read_policy_state,
    registered_servers,
    withdraw_policy_state,
)
from megatron_rl.run_dir import RunDir
from tests.unit.weight_sync.shard_faults import Fault
from tests.unit.weight_sync.shard_fleet import (
    Nursery,
    ShardServer,
    Source,
    expected,
    open_publisher,
)

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

    def begin(self, verify, timeout_s: float = TIMEOUT_S, *, passes_on: bool = False) -> None:
        """Begin a life of the learner, after the end of the one before."""
        if self.version:
            self.publisher.close()
            self.publisher._links.leave(list(self.publisher._links.proven))
        withdraw_policy_state(self.run_dir)
        self.timeout_s = timeout_s
        self.source = Source()
        self.publisher = open_publisher(
            self.run_dir, self.source, verify=verify, timeout_s=timeout_s, passes_on=passes_on
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
OF_RELAYS = ("relay", "receive")
QUICK = ("die", "slow")
HANGING = ("hang", "stop")
AT_ROUTES = ("refuse", "no_success", "close")
AT_OPS = ("tamper", "mute", "garble", "corrupt", "wrong_map", "bad_map")
AT_MESSAGES = ("flip", "raise")
NUM_MESSAGES = 24


def random_fault(draw: random.Random, *, hangs: bool, tp: int, ops: Sequence[str]) -> Fault:
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
    name = draw.choice(ops)
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


def have_fault(fleet: Fleet, fault: Fault, *, newcomers: str, whose: str = "b") -> None:
    """Publish with a fault of one server; then without, until it is back."""
    for name in newcomers:
        fleet.servers[name].register()
    fleet.servers[whose].arm(fault)
    fleet.publish()
    for name in NAMES:
        if name != whose:
            fleet.check(name, is_new=True)
    fleet.check_nothing_is_left()
    fleet.heal(whose)
    fleet.check(whose, is_new=False)
    fleet.publish_until_all_are_back()
    fleet.check_nothing_is_left()


def have_random_faults(
    fleet: Fleet,
    seed: int,
    count: int,
    *,
    share_hanging: float,
    timeout_s: float = TIMEOUT_S,
    passes_on: bool = False,
) -> None:
    draw = random.Random(seed)
    verify = draw.choice(("always", "admission", "admission", "never"))
    fleet.begin(verify, timeout_s, passes_on=passes_on)
    fleet.publish()
    for index in range(count):
        ops = (*OPS, *OF_RELAYS) if passes_on else OPS
        fault = random_fault(draw, hangs=draw.random() < share_hanging, tp=fleet.tp, ops=ops)
        # The first of a chain, its middle, its end.
        whose = draw.choice(NAMES) if passes_on else "b"
        both = "bc" if whose == "c" else "".join(sorted({whose, "b"}))
        newcomers = draw.choice((whose, "abc", both if passes_on else "bc"))
        if fault.place not in OF_ADMISSION:
            newcomers = draw.choice(("", newcomers))
        is_newcomer = whose in newcomers
        if not is_found(fault, verify, is_newcomer=is_newcomer):
            continue
        try:
            have_fault(fleet, fault, newcomers=newcomers, whose=whose)
        except BaseException as error:
            error.add_note(
                f"seed {seed}, number {index}, {verify}, {newcomers=}, {whose=}: {fault}"
            )
            raise
        if fleet.servers[whose].incarnation in fleet.publisher._links.refused:
            fleet.servers[whose].register()
            fleet.publish()
