"""Answers that a current SGLang does not give: another release, a refusal dressed as success."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from megatron_rl.errors import WeightSyncError
from megatron_rl.registry import ServerInfo
from megatron_rl.weight_sync.admin import ServerAdmin, ServerRefusedError


class FakeServer(ThreadingHTTPServer):
    """Answers POST routes from a table and keeps what it was asked."""

    def __init__(self, answers: dict[str, list[tuple[int, str]]]) -> None:
        super().__init__(("127.0.0.1", 0), FakeHandler)
        self.answers = answers
        self.asked: list[str] = []


class FakeHandler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(self.path)
        queue = self.server.answers.get(self.path)
        status, text = queue.pop(0) if queue else (404, '{"detail":"Not Found"}')
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    server = FakeServer({})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def admin_of(fake: FakeServer) -> ServerAdmin:
    url = f"http://127.0.0.1:{fake.server_address[1]}"
    return ServerAdmin(
        ServerInfo(
            name="east",
            incarnation="x",
            url=url,
            api_key="secret-key",
            pid=1,
            tp=1,
            starts_without_weights=True,
            takes_shards=False,
        )
    )


def test_a_release_without_update_sessions_needs_none(fake):
    admin_of(fake).begin_update(timeout_s=5)
    admin_of(fake).end_update(timeout_s=5)
    assert fake.asked == ["/begin_weight_update", "/end_weight_update"]


def test_a_session_that_a_dead_learner_left_open_is_closed_first(fake):
    success = (200, json.dumps({"success": True}))
    fake.answers["/begin_weight_update"] = [(400, json.dumps({"success": False})), success]
    fake.answers["/end_weight_update"] = [success]
    admin_of(fake).begin_update(timeout_s=5)
    assert fake.asked == ["/begin_weight_update", "/end_weight_update", "/begin_weight_update"]


def test_a_refusal_names_server_route_status_and_the_beginning_of_the_answer(fake):
    fake.answers["/update_weights_from_disk"] = [(400, "no" * 400)]
    with pytest.raises(ServerRefusedError) as caught:
        admin_of(fake).load_folder("folder", timeout_s=5)
    message = str(caught.value)
    assert message == f"server east refused /update_weights_from_disk: HTTP 400: {'no' * 150}"


def test_status_200_with_success_false_is_a_refusal(fake):
    fake.answers["/update_weights_from_disk"] = [(200, json.dumps({"success": False}))]
    with pytest.raises(ServerRefusedError):
        admin_of(fake).load_folder("folder", timeout_s=5)


def test_a_server_that_is_gone_did_not_refuse_and_the_key_stays_secret(fake):
    admin = admin_of(fake)
    fake.server_close()
    with pytest.raises(WeightSyncError) as caught:
        admin.pause(timeout_s=1)
    assert not isinstance(caught.value, ServerRefusedError)
    assert "east" in str(caught.value)
    assert "secret-key" not in str(caught.value)
