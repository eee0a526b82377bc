"""Servers that wait for weights, and the pauses after failures."""

from megatron_rl.registry import PolicyState, ServerInfo
from megatron_rl.weight_sync.fleet import Attempts, Fleet


def server(name: str, incarnation: str = "first") -> ServerInfo:
    return ServerInfo(
        name=name,
        incarnation=incarnation,
        url="http://127.0.0.1:1",
        api_key="",
        pid=1,
        tp=1,
        starts_without_weights=True,
        takes_shards=False,
    )


def test_a_server_is_pending_until_the_state_names_its_incarnation():
    registered = {"a": server("a")}
    attempts = Attempts(retry_after_s=30.0)
    assert attempts.is_pending(registered, None)
    assert attempts.is_pending(registered, PolicyState(version=1, servers={}))
    assert attempts.is_pending(registered, PolicyState(version=1, servers={"a": "other"}))
    assert not attempts.is_pending(registered, PolicyState(version=1, servers={"a": "first"}))


def test_a_server_that_has_just_failed_is_not_pending_but_its_successor_is():
    fleet = Fleet({"a": server("a"), "b": server("b")}, timeout_s=1.0)
    fleet.dropped["a"] = fleet.members.pop("a")
    attempts = Attempts(retry_after_s=30.0)
    attempts.record(fleet)
    state = PolicyState(version=1, servers=fleet.incarnations())
    assert not attempts.is_pending({"a": server("a"), "b": server("b")}, state)
    assert attempts.is_pending({"a": server("a", "second"), "b": server("b")}, state)
    assert attempts.up_to_date == {("b", "first")}


def test_patience_with_a_server_that_fails_doubles_and_ends_with_a_success():
    now = 0.0
    attempts = Attempts(retry_after_s=30.0, clock=lambda: now)
    registered = {"a": server("a")}

    def publish(*, fails: bool) -> None:
        fleet = Fleet(attempts.may_try(registered), timeout_s=1.0)
        if fails:
            fleet.dropped["a"] = fleet.members.pop("a")
        attempts.record(fleet)

    publish(fails=True)
    for patience in (30, 60, 120):
        now += patience - 1
        assert not attempts.may_try(registered)
        now += 1
        assert attempts.may_try(registered)
        publish(fails=True)
    now += 240
    publish(fails=False)
    publish(fails=True)
    now += 30
    assert attempts.is_pending(registered, None)


def test_a_publication_that_left_a_server_out_says_nothing_about_it():
    attempts = Attempts(retry_after_s=30.0, clock=lambda: 0.0)
    failed = Fleet({"a": server("a"), "b": server("b")}, timeout_s=1.0)
    failed.dropped["a"] = failed.members.pop("a")
    attempts.record(failed)
    attempts.record(Fleet({"b": server("b")}, timeout_s=1.0))
    assert attempts.may_try({"a": server("a")}) == {}
