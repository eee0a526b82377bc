"""Servers that die: started again, given up, and the last one ends the run."""

from pathlib import Path

import pytest

from megatron_rl.errors import ProgramError
from megatron_rl.programs.processes.server_restarts import ServerRestarts
from megatron_rl.registry import (
    ServerInfo,
    register_server,
    registered_servers,
    request_restart,
    restart_request,
)
from megatron_rl.run_dir import RunDir


class Program:
    """A server's program as the watch sees it; it lives until told otherwise."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.code: int | None = None
        self.is_swept = False

    def poll(self) -> int | None:
        return self.code

    def kill(self) -> None:
        self.is_swept = True

    def failure(self) -> ProgramError:
        return ProgramError("serve", f"{self.name} ended with exit code {self.code}")


class Servers:
    """A watch, the programs it has started, and how they register."""

    def __init__(self, folder: Path, *, num_servers: int, max_restarts: int) -> None:
        self.run_dir = RunDir(folder)
        self.started: list[int] = []
        self.watch = ServerRestarts(
            self.run_dir, num_servers=num_servers, max_restarts=max_restarts, start=self._start
        )
        self.watch.start_all()

    def _start(self, index: int) -> Program:
        self.started.append(index)
        return Program(f"serve_{index}")

    def become_healthy(self, index: int) -> None:
        info = ServerInfo(
            name=f"server_{index}",
            incarnation="x",
            url="http://h:1",
            api_key="k",
            pid=1,
            tp=1,
            starts_without_weights=True,
            takes_shards=False,
        )
        register_server(self.run_dir, info)
        self.watch.watch()

    def die(self, index: int) -> Program:
        program = self.watch.servers[index]
        program.code = 137
        return program


@pytest.fixture
def two(tmp_path):
    return Servers(tmp_path, num_servers=2, max_restarts=1)


@pytest.fixture
def patient(tmp_path):
    return Servers(tmp_path, num_servers=2, max_restarts=3)


def test_a_healthy_server_that_dies_is_forgotten_and_started_again(two):
    two.become_healthy(1)
    dead = two.die(1)
    two.watch.watch()
    assert two.started == [0, 1, 1]
    assert dead.is_swept
    assert two.watch.servers[1] is not dead
    assert registered_servers(two.run_dir) == {}


def test_a_server_that_was_never_healthy_is_started_once_more_and_then_given_up(patient):
    for _ in range(2):
        patient.die(0)
        patient.watch.watch()
    assert patient.started == [0, 1, 0]
    assert list(patient.watch.servers) == [1]


def test_a_restarted_server_that_never_gets_healthy_is_started_once_more(patient):
    patient.become_healthy(1)
    for _ in range(3):
        patient.die(1)
        patient.watch.watch()
    assert patient.started == [0, 1, 1, 1]
    assert list(patient.watch.servers) == [0]


def test_a_server_that_dies_when_no_restart_is_left_is_given_up(two):
    for index in (0, 1):
        two.become_healthy(index)
    for index in (1, 0):
        two.die(index)
        two.watch.watch()
    assert two.started == [0, 1, 1]
    assert list(two.watch.servers) == [1]


def test_the_last_server_ends_the_run_with_its_own_failure(two):
    two.die(0)
    two.watch.watch()  # the one restart
    for index in (0, 1):
        two.die(index)
    with pytest.raises(ProgramError, match="serve_1 ended with exit code 137"):
        two.watch.watch()


def test_servers_that_the_learner_wants_anew_for_one_cause_take_one_restart(two):
    for index in (0, 1):
        two.become_healthy(index)
    for name, info in registered_servers(two.run_dir).items():
        request_restart(two.run_dir, info, cause="a broadcast")
        assert restart_request(two.run_dir, name) is not None
    for index in (0, 1):
        two.die(index)
    two.watch.watch()  # of the one restart there is
    assert two.started == [0, 1, 0, 1]
    assert restart_request(two.run_dir, "server_0") is restart_request(two.run_dir, "server_1")


def test_another_cause_takes_another_restart(two):
    for cause in ("one broadcast", "another"):
        two.become_healthy(1)
        request_restart(two.run_dir, registered_servers(two.run_dir)["server_1"], cause=cause)
        two.die(1)
        two.watch.watch()
    assert two.started == [0, 1, 1]
    assert list(two.watch.servers) == [0]
