"""Which servers an evaluation finds: those that answer, not those that a killed job left behind."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from megatron_rl.programs.builders.served_policy import answering
from megatron_rl.registry import (
    PolicyState,
    ServerInfo,
    publish_policy_state,
    register_server,
)
from megatron_rl.run_dir import RunDir


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        is_known = self.headers["Authorization"] == "Bearer key"
        self.send_response(200 if is_known else 401)
        self.end_headers()
        self.wfile.write(json.dumps({"weight_version": "3"} if is_known else {}).encode())

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture
def url():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def dead_url():
    with socket.socket() as reserved:  # bound and not listening: connections are refused
        reserved.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{reserved.getsockname()[1]}"


def register(
    run_dir: RunDir, name: str, url: str, *, key: str = "key", starts_without_weights: bool = False
) -> None:
    info = ServerInfo(
        name=name,
        incarnation="i",
        url=url,
        api_key=key,
        pid=1,
        tp=1,
        starts_without_weights=starts_without_weights,
        takes_shards=False,
    )
    register_server(run_dir, info)


def test_nobody_is_registered(tmp_path):
    assert answering(RunDir(tmp_path)) is None


def test_a_server_that_answers_is_used_though_another_is_dead(tmp_path, url, dead_url):
    run_dir = RunDir(tmp_path)
    register(run_dir, "server_0", dead_url)
    register(run_dir, "server_1", url)
    assert answering(run_dir) == "standalone"


def test_servers_of_a_job_that_was_killed_are_named_and_not_used(tmp_path, dead_url, caplog):
    run_dir = RunDir(tmp_path)
    register(run_dir, "server_0", dead_url)
    assert answering(run_dir) is None
    assert f"server_0 is registered at {dead_url}, but:" in caplog.text


def test_another_server_at_the_address_of_a_dead_one_is_not_used(tmp_path, url):
    run_dir = RunDir(tmp_path)
    register(run_dir, "server_0", url, key="of the dead one")
    assert answering(run_dir) is None


def test_the_weights_that_a_server_starts_on_while_it_waits_are_no_policy(tmp_path, url):
    run_dir = RunDir(tmp_path)
    register(run_dir, "server_0", url, starts_without_weights=True)
    assert answering(run_dir) is None
    publish_policy_state(run_dir, PolicyState(version=3, servers={"server_0": "i"}))
    assert answering(run_dir) == "acknowledged"


def test_a_state_that_names_an_earlier_life_of_a_server_says_nothing_of_this_one(tmp_path, url):
    run_dir = RunDir(tmp_path)
    register(run_dir, "server_0", url)
    publish_policy_state(run_dir, PolicyState(version=60, servers={"server_0": "earlier"}))
    assert answering(run_dir) == "standalone"
