"""Registration of servers in the run folder, also by a server of an earlier version."""

import json
from pathlib import Path

from megatron_rl.registry import (
    RestartRequest,
    ServerInfo,
    register_server,
    registered_servers,
    request_restart,
    restart_request,
    standalone_servers,
    withdraw_restart,
)
from megatron_rl.run_dir import RunDir

INFO = ServerInfo(
    name="a",
    incarnation="i",
    url="http://127.0.0.1:1",
    api_key="secret",
    pid=1,
    tp=1,
    starts_without_weights=True,
    takes_shards=False,
)


def test_a_registered_server_is_found_as_it_was_written_and_private(tmp_path: Path):
    run_dir = RunDir(tmp_path)
    register_server(run_dir, INFO)
    assert registered_servers(run_dir) == {"a": INFO}
    assert (run_dir.servers / "a.json").stat().st_mode & 0o077 == 0


def test_a_file_with_the_former_field_name_is_understood(tmp_path: Path):
    run_dir = RunDir(tmp_path)
    register_server(run_dir, INFO)
    path = run_dir.servers / "a.json"
    record = json.loads(path.read_text())
    record["awaits_weights"] = record.pop("starts_without_weights")
    path.write_text(json.dumps(record))
    assert registered_servers(run_dir) == {"a": INFO}
    assert standalone_servers(run_dir) == {}


def test_a_request_for_a_new_start_is_read_until_it_is_withdrawn_and_is_no_registration(tmp_path):
    run_dir = RunDir(tmp_path)
    assert restart_request(run_dir, "a") is None
    request_restart(run_dir, INFO, cause="x")
    assert restart_request(run_dir, "a") == RestartRequest(incarnation="i", cause="x")
    assert registered_servers(run_dir) == {}
    withdraw_restart(run_dir, "a")
    withdraw_restart(run_dir, "a")
    assert restart_request(run_dir, "a") is None
