"""Servers that fail at one order, which a real one cannot be made to do; the folder transport."""

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from megatron_rl.registry import (
    INCOMPLETE_WEIGHTS,
    PolicyState,
    ServerInfo,
    read_policy_state,
    register_server,
    routable_servers,
)
from megatron_rl.run_dir import RunDir
from megatron_rl.weight_sync.disk import DiskPublisher

WEIGHTS = [("w", torch.zeros(3))]


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What a server was told, and who could be sent requests at that moment."""

    server: str
    route: str
    body: dict
    routable: list[str]


class Server(ThreadingHTTPServer):
    """Does as told, and says no on the routes in ``refused``."""

    def __init__(self, run_dir: RunDir, name: str, orders: list[Order]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.run_dir, self.name, self.orders = run_dir, name, orders
        self.refused: set[str] = set()

    def register(self) -> None:
        url = f"http://127.0.0.1:{self.server_address[1]}"
        info = ServerInfo(
            name=self.name,
            incarnation="i",
            url=url,
            api_key="k",
            pid=1,
            tp=1,
            starts_without_weights=True,
            takes_shards=False,
        )
        register_server(self.run_dir, info)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def answer(self) -> None:
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(text) if text else {}
        routable = sorted(routable_servers(self.server.run_dir))
        order = Order(server=self.server.name, route=self.path, body=body, routable=routable)
        self.server.orders.append(order)
        self.send_response(500 if self.path in self.server.refused else 200)
        self.end_headers()
        self.wfile.write(b'{"weight_version": "0", "success": true}')

    do_GET = do_POST = answer

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


@pytest.fixture
def orders() -> list[Order]:
    return []


@pytest.fixture
def servers(run_dir, orders) -> Iterator[dict[str, Server]]:
    with ExitStack() as stack:
        servers = {}
        for name in ("a", "b"):
            servers[name] = server = stack.enter_context(Server(run_dir, name, orders))
            threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
            stack.callback(server.shutdown)
            server.register()
        yield servers


@pytest.fixture
def publisher(run_dir, tmp_path) -> DiskPublisher:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    return DiskPublisher(
        run_dir, model_folder=model, timeout_s=5.0, bucket_bytes=1 << 20, retry_after_s=60.0
    )


def told(orders: list[Order], server: str, route: str) -> list[Order]:
    return [order for order in orders if order.server == server and order.route == route]


def test_weights_are_labelled_incomplete_from_the_first_to_the_last_byte(
    servers, publisher, orders
):
    publisher.publish(WEIGHTS, version=7)
    routes = [order.route for order in orders if order.server == "a"]
    assert routes == [
        "/model_info",
        "/pause_generation",
        "/flush_cache?timeout=2.5",
        "/update_weight_version",
        "/update_weights_from_disk",
        "/update_weight_version",
        "/continue_generation",
    ]
    labels = [order.body for order in told(orders, "a", "/update_weight_version")]
    assert labels == [
        {"new_version": INCOMPLETE_WEIGHTS, "abort_all_requests": False},
        {"new_version": "7", "abort_all_requests": False},
    ]


def test_a_server_that_failed_half_way_goes_on_when_nobody_is_sent_to_it_any_more(
    servers, publisher, orders, run_dir
):
    publisher.publish(WEIGHTS, version=1)
    assert sorted(routable_servers(run_dir)) == ["a", "b"]
    orders.clear()
    servers["b"].refused.add("/update_weights_from_disk")
    publisher.publish(WEIGHTS, version=2)
    (resumed,) = told(orders, "b", "/continue_generation")
    assert resumed.routable == ["a"]
    # What it has is a mixture, and it was not told otherwise.
    labels = [order.body["new_version"] for order in told(orders, "b", "/update_weight_version")]
    assert labels == [INCOMPLETE_WEIGHTS]
    assert read_policy_state(run_dir) == PolicyState(version=2, servers={"a": "i"})


def test_the_learner_does_not_wait_at_every_step_for_a_server_that_fails(
    servers, publisher, orders, run_dir
):
    servers["b"].refused.add("/model_info")
    publisher.publish(WEIGHTS, version=1)
    assert len(told(orders, "b", "/model_info")) == 1
    servers["b"].refused.clear()
    publisher.publish(WEIGHTS, version=2)
    assert len(told(orders, "b", "/model_info")) == 1
    assert not publisher.pending()
    assert read_policy_state(run_dir) == PolicyState(version=2, servers={"a": "i"})
