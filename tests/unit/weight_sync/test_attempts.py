"""Which servers count as waiting for weights."""

from megatron_rl.registry import PolicyState, ServerInfo
from megatron_rl.weight_sync.fleet import Attempts, Fleet


def server(name: str, incarnation: str = "first") -> ServerInfo:
    return ServerInfo(
        name=name, incarnation=incarnation, url="http://127.0.0.1:1", api_key="", pid=1, tp=1
    )


def test_a_server_is_pending_until_the_state_names_its_incarnation():
    registered = {"a": server("a")}
    attempts = Attempts()
    assert attempts.is_pending(registered, None)
    assert attempts.is_pending(registered, PolicyState(version=1, servers={}))
    assert attempts.is_pending(registered, PolicyState(version=1, servers={"a": "other"}))
    assert not attempts.is_pending(registered, PolicyState(version=1, servers={"a": "first"}))


def test_a_server_that_has_just_failed_is_not_pending_but_its_successor_is():
    fleet = Fleet({"a": server("a"), "b": server("b")}, timeout_s=1.0)
    fleet.dropped["a"] = fleet.members.pop("a")
    attempts = Attempts()
    attempts.record(fleet)
    state = PolicyState(version=1, servers=fleet.incarnations())
    assert not attempts.is_pending({"a": server("a"), "b": server("b")}, state)
    assert attempts.is_pending({"a": server("a", "second"), "b": server("b")}, state)
    assert attempts.in_step == {("b", "first")}
