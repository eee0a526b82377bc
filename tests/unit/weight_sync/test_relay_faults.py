"""Publication by shards that servers pass on, a to b to c, of which one has a fault.

Whatever it is, the others have the new weights in the same publication.
"""

import time

import pytest

from megatron_rl.transfers import read_transfers
from tests.unit.weight_sync.shard_faults import Fault
from tests.unit.weight_sync.shard_publications import NAMES, have_fault, have_random_faults

pytestmark = [pytest.mark.lengthy, pytest.mark.distributed]


def ways(fleet) -> dict[str, str]:
    """Return who passed shards on, by server that got them so."""
    transfers = read_transfers(fleet.run_dir)
    assert all(transfer.transport == "shards" for transfer in transfers.values())
    return {name: t.feeder for name, t in transfers.items() if t.feeder}


def begin(fleet, verify="never", **options):
    """Begin a life in which all servers are admitted, and pass on."""
    for name in NAMES:
        fleet.servers[name].register()
    fleet.begin(verify, passes_on=True, **options)
    assert fleet.publish().num_sharded == 0
    assert fleet.publish().num_sharded == 3
    assert ways(fleet) == {"b": "a", "c": "b"}


def check_all(fleet):
    for name in NAMES:
        fleet.check(name, is_new=True)
    fleet.check_nothing_is_left()


@pytest.mark.parametrize("verify", ["always", "admission", "never"])
def test_servers_pass_on_what_the_learner_sends_to_the_first(fleet, verify):
    begin(fleet, verify)
    check_all(fleet)
    for _ in range(3):
        assert fleet.publish().num_sharded == 3
        assert ways(fleet) == {"b": "a", "c": "b"}
        check_all(fleet)


def test_a_newcomer_joins_the_chain_once_it_has_proved_shards(fleet):
    begin(fleet)
    fleet.servers["b"].register()
    fleet.publish()
    transfers = read_transfers(fleet.run_dir)
    assert (transfers["b"].transport, transfers["c"].feeder) == ("broadcast", "a")
    check_all(fleet)
    fleet.publish()
    assert ways(fleet) == {"b": "a", "c": "b"}
    check_all(fleet)


@pytest.mark.parametrize("whose", NAMES)
def test_a_server_that_dies_at_a_message_is_passed_by(fleet, whose):
    begin(fleet, "admission")
    have_fault(fleet, Fault(place="message 5", kind="die"), newcomers="", whose=whose)
    assert fleet.publish().num_sharded == 3
    check_all(fleet)


@pytest.mark.parametrize("whose", NAMES)
def test_a_server_that_stops_at_a_message_is_passed_by(fleet, whose):
    begin(fleet, timeout_s=12.0)
    have_fault(fleet, Fault(place="message 5", kind="stop"), newcomers="", whose=whose)
    assert fleet.publish().num_sharded == 3
    check_all(fleet)


@pytest.mark.parametrize("kind", ["flip", "raise"])
def test_what_breaks_on_its_way_between_servers_is_sent_again_by_the_learner(fleet, kind, caplog):
    begin(fleet, "always")
    fleet.servers["c"].arm(Fault(place="message 7", kind=kind))
    assert fleet.publish().num_sharded == 3
    assert ways(fleet) == {"b": "a"}
    (warning,) = [r.getMessage() for r in caplog.records if "from now on" in r.msg]
    assert "server c is sent shards by the learner" in warning
    check_all(fleet)
    # It is not tried again, for as long as the server lives, and nobody keeps its group.
    fleet.publish()
    assert ways(fleet) == {"b": "a"}
    check_all(fleet)
    pairs = {
        name: (rank["feeder"], rank["sister"])
        for name in NAMES
        for rank in fleet.servers[name].state()["ranks"]
    }
    assert pairs["c"] == ("", "")
    assert pairs["a"] == ("", pairs["b"][0]) and pairs["b"][1] == ""
    fleet.servers["c"].register()
    fleet.publish_until_all_are_back()
    fleet.publish()
    assert ways(fleet) == {"b": "a", "c": "b"}


@pytest.mark.parametrize("place", ["receive", "relay"])
@pytest.mark.parametrize("kind", ["tamper", "mute", "garble"])
def test_nobody_waits_for_a_server_that_refuses_its_part(fleet, place, kind):
    """They would, for shares of a time that is long here."""
    begin(fleet, timeout_s=200.0)
    if place == "relay":
        fleet.servers["c"].register()
        fleet.publish()
    started = time.monotonic()
    fleet.servers["c"].arm(Fault(place=place, kind=kind))
    fleet.publish()
    assert time.monotonic() - started < 40
    # One that does not meet its pair leaves the whole chain to the learner, once.
    is_absent = place == "relay" and kind != "garble"
    assert ways(fleet) == ({} if is_absent else {"b": "a"})
    check_all(fleet)
    fleet.publish()
    assert ways(fleet) == {"b": "a"}


@pytest.mark.parametrize("seed", [1, 3])
def test_random_faults_of_one_server_are_its_own(fleet, seed):
    have_random_faults(fleet, seed, 12, share_hanging=0.0, passes_on=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3000, 3010))
def test_five_hundred_random_faults_of_a_chain(fleet, seed):
    have_random_faults(fleet, seed, 50, share_hanging=0.1, timeout_s=12.0, passes_on=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4000, 4002))
def test_a_hundred_random_faults_of_a_chain_of_two_ranks_each(fleet_of_two_ranks, seed):
    have_random_faults(
        fleet_of_two_ranks, seed, 50, share_hanging=0.1, timeout_s=12.0, passes_on=True
    )


def test_a_transfer_may_take_longer_than_one_message_is_waited_for(fleet):
    """b waits a third of ten seconds at most for c, which takes five for all messages."""
    begin(fleet, timeout_s=60.0)
    fleet.servers["c"].arm(Fault(place="message", kind="slow", seconds=0.15, times=-1))
    started = time.monotonic()
    fleet.publish()
    assert time.monotonic() - started > 10 / 3
    assert ways(fleet) == {"b": "a", "c": "b"}
    fleet.heal("c")
    check_all(fleet)
