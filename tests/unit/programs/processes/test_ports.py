"""Ports at which ranks meet: free, and not among those that connections are given."""

import socket

import pytest

from megatron_rl.programs.processes import ports
from megatron_rl.programs.processes.ports import rendezvous_port


def test_ranks_meet_below_the_ports_of_connections():
    first = ports._first_of_connections()
    found = {rendezvous_port() for _ in range(20)}
    assert all(16_384 <= port < first for port in found)
    assert len(found) > 10


def test_a_port_that_is_taken_is_passed_over(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(ports, "_LOWEST_PORT", port)
        monkeypatch.setattr(ports, "_first_of_connections", lambda: port + 3)
        assert {rendezvous_port() for _ in range(10)} <= {port + 1, port + 2}


@pytest.mark.parametrize("text", ["1024 65535", "", "many"])
def test_a_machine_that_gives_connections_any_port_has_ports_as_well(tmp_path, monkeypatch, text):
    (tmp_path / "range").write_text(text)
    monkeypatch.setattr(ports, "_CONNECTIONS", tmp_path / "range")
    assert rendezvous_port() > 0
