"""The head node's part in preflight, over this machine's own network."""

import socket

import pytest

from megatron_rl.programs.slurm_job.head_node import HeadServer, ask_head, own_name


@pytest.fixture
def head():
    with HeadServer() as server:
        yield f"127.0.0.1:{server.port}"


def test_a_node_that_is_reached_by_its_name_has_no_problem_and_no_skew(head):
    problems: list[str] = []
    assert abs(ask_head(head, listens_as="localhost", problems=problems)) < 1.0
    assert problems == []


def test_a_node_may_have_nothing_to_call_back(head):
    problems: list[str] = []
    ask_head(head, listens_as=None, problems=problems)
    assert problems == []


def test_a_name_that_is_another_machines_is_named(head):
    problems: list[str] = []
    ask_head(head, listens_as="192.0.2.1", problems=problems)  # of no machine, RFC 5737
    (problem,) = problems
    assert problem.startswith("its own name 192.0.2.1 is not this node's address (")


def test_a_head_node_that_does_not_listen_is_named():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    problems: list[str] = []
    assert ask_head(f"127.0.0.1:{port}", listens_as=None, problems=problems) == 0.0
    (problem,) = problems
    assert problem.startswith("127.0.0.1 cannot be reached (")
    assert "open the ports between nodes" in problem


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("10.1.2.3", None),
        ("127.0.1.1", "its own name n7 is 127.0.1.1 here, where other nodes cannot reach it"),
        ("::1", "its own name n7 is ::1 here"),
    ],
)
def test_a_name_that_only_the_node_itself_understands_is_a_problem(monkeypatch, address, problem):
    monkeypatch.setattr(socket, "gethostname", lambda: "n7")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [(0, 0, 0, "", (address, 0))])
    problems: list[str] = []
    assert own_name(problems) == ("n7" if problem is None else None)
    assert [line.startswith(problem or "") for line in problems] == [True] * (problem is not None)
