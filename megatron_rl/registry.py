"""Registry of servers, and the policy version that each serves: both make a server routable.

``serve`` writes a :class:`ServerInfo` once its server is healthy. The learner admits the server,
sends it the current weights and then names it in :class:`PolicyState`. Only a server named there,
with the incarnation named there, may receive requests. A :class:`RestartRequest` beside the
registration has ``serve`` end its server, for the launcher to start it again.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_rl.run_dir import RunDir, write_json

_PRIVATE = 0o600

SHARD_LOADER = "shard_receiver.receive"
"""Loader of shards in ``serving_plugin``, as a server's flag and every order must name it."""

INCOMPLETE_WEIGHTS = "incomplete"
"""Label of a server's weights, instead of a version, while new tensors arrive."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerInfo:
    """One healthy generation server."""

    name: str
    incarnation: str
    """Random per start: a restarted server has lost its weights and must be admitted anew."""
    url: str
    api_key: str = dataclasses.field(repr=False)
    pid: int
    tp: int
    starts_without_weights: bool
    """The server started on placeholder weights: it serves a policy once a learner has sent one."""
    takes_shards: bool
    """The server was started with the loader of shards."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyState:
    """The newest published version and the incarnation of every server that acknowledged it."""

    version: int
    servers: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class RestartRequest:
    """The learner's wish that one incarnation of a server be started again."""

    incarnation: str
    cause: str
    """Identifies what went wrong; requests of one cause count as one restart."""


def register_server(run_dir: RunDir, info: ServerInfo) -> None:
    """Make a healthy server known; only the owner can read the file, since it holds the key."""
    write_json(_server_file(run_dir, info.name), dataclasses.asdict(info), mode=_PRIVATE)


def unregister_server(run_dir: RunDir, name: str) -> None:
    """Forget a server; nothing happens when it was never known."""
    _server_file(run_dir, name).unlink(missing_ok=True)


def registered_servers(run_dir: RunDir) -> dict[str, ServerInfo]:
    """Return every registered server by name, whatever it serves."""
    servers = {}
    for path in sorted(run_dir.servers.glob("*.json")):
        text = _read(path)
        if text is not None:
            servers[path.stem] = _server_info(json.loads(text))
    return servers


def request_restart(run_dir: RunDir, server: ServerInfo, *, cause: str) -> None:
    """Ask for a new start of a server that nothing else would end."""
    request = RestartRequest(incarnation=server.incarnation, cause=cause)
    write_json(_restart_file(run_dir, server.name), dataclasses.asdict(request))


def restart_request(run_dir: RunDir, name: str) -> RestartRequest | None:
    """Return the request for a server, None without one."""
    text = _read(_restart_file(run_dir, name))
    return None if text is None else RestartRequest(**json.loads(text))


def withdraw_restart(run_dir: RunDir, name: str) -> None:
    """Remove a request that was met, or whose server is gone; nothing happens without one."""
    _restart_file(run_dir, name).unlink(missing_ok=True)


def publish_policy_state(run_dir: RunDir, state: PolicyState) -> None:
    """Publish which servers serve ``state.version``. The learner is the only writer."""
    write_json(run_dir.policy, {"version": state.version, "servers": dict(state.servers)})


def withdraw_policy_state(run_dir: RunDir) -> None:
    """Remove the state that an earlier life of the learner published.

    No server is routable until the next publication, whose version may be older.
    """
    run_dir.policy.unlink(missing_ok=True)


def read_policy_state(run_dir: RunDir) -> PolicyState | None:
    """Return the published state, None before the first publication."""
    text = _read(run_dir.policy)
    return None if text is None else PolicyState(**json.loads(text))


def routable_servers(run_dir: RunDir) -> dict[str, ServerInfo]:
    """Return the registered servers that acknowledged the published version."""
    state = read_policy_state(run_dir)
    if state is None:
        return {}
    return {
        name: info
        for name, info in registered_servers(run_dir).items()
        if name in state.servers and state.servers[name] == info.incarnation
    }


def standalone_servers(run_dir: RunDir) -> dict[str, ServerInfo]:
    """Return the registered servers that serve a policy without a learner: that of a folder."""
    servers = registered_servers(run_dir)
    return {name: info for name, info in servers.items() if not info.starts_without_weights}


def _server_info(record: dict[str, Any]) -> ServerInfo:
    # A server of an earlier version, which runs on, registered under the former name.
    if "awaits_weights" in record:
        record["starts_without_weights"] = record.pop("awaits_weights")
    record.setdefault("takes_shards", False)  # likewise
    return ServerInfo(**record)


def _server_file(run_dir: RunDir, name: str) -> Path:
    return run_dir.servers / f"{name}.json"


def _restart_file(run_dir: RunDir, name: str) -> Path:
    return run_dir.servers / f"{name}.restart"


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:  # unregistered, or not there yet
        return None


def registered_name(index: int) -> str:
    """Return the name under which server ``index`` registers."""
    return f"server_{index}"
