"""Publication by shards to three servers of which one has a fault, at every border there is.

Only the faults are made up: the learner's part, the plug-in and gloo are real, in processes of
their own. Here the learner sends to all servers; test_relay_faults.py has those that pass on.
"""

import time

import pytest

from megatron_rl.transfers import read_transfers
from tests.unit.weight_sync.shard_faults import Fault
from tests.unit.weight_sync.shard_publications import (
    BROADCAST,
    NAMES,
    have_fault,
    have_random_faults,
)

pytestmark = [pytest.mark.lengthy, pytest.mark.distributed]


def test_all_is_well_without_faults(fleet):
    for num_sharded in (0, 3, 3):
        report = fleet.publish()
        assert (report.num_servers, report.num_sharded) == (3, num_sharded)
        for name in NAMES:
            fleet.check(name, is_new=True)
    fleet.check_nothing_is_left()


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


@pytest.mark.parametrize("route", BROADCAST)
@pytest.mark.parametrize("kind", ["refuse", "no_success", "close", "die"])
def test_a_newcomer_that_takes_no_broadcast_is_alone_without_the_weights(fleet, route, kind):
    """The group in which it does not join, or receive, breaks for all; the others have another."""
    joins = route == "/init_weights_update_group"
    fleet.begin("admission", timeout_s=80.0 if joins else 8.0)
    fleet.publish()
    for name in NAMES:
        fleet.servers[name].register()
    fleet.servers["b"].arm(Fault(place=route, kind=kind))
    started = time.monotonic()
    fleet.publish()
    # Nobody waits for a server that refuses to join: ranks would, for a quarter of the time.
    assert not joins or time.monotonic() - started < 15
    assert fleet.named() == {"a", "c"}
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
