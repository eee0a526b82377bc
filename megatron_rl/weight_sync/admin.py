"""HTTP client (synchronous) for the admin routes of one SGLang server."""

import http.client
import json
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from megatron_rl.errors import WeightSyncError
from megatron_rl.registry import INCOMPLETE_WEIGHTS, ServerInfo

_SHOWN_CHARS = 300


class ServerRefusedError(WeightSyncError):
    """The server refused an order. Any other WeightSyncError means that it did not answer."""


class _UnknownRouteError(ServerRefusedError):
    """The server is of a release that does not have the route."""


class ServerAdmin:
    """Weights and generation of one server: pause, update, label, resume.

    Every method raises ServerRefusedError when the server refuses, and WeightSyncError when it
    cannot be reached or does not answer within ``timeout_s``.
    """

    def __init__(self, info: ServerInfo) -> None:
        self.info = info
        url = urllib.parse.urlsplit(info.url)
        assert url.scheme == "http" and url.hostname is not None and url.port is not None, info.url
        self.address: tuple[str, int] = (url.hostname, url.port)

    def weight_version(self, *, timeout_s: float) -> str:
        """Return the label of the weights in use; a cheap sign of life, even while paused."""
        answer = self._call("GET", "/model_info", None, timeout_s)
        if "weight_version" not in answer:
            raise ServerRefusedError(f"server {self.info.name} reports no weight version: {answer}")
        return str(answer["weight_version"])

    def pause(self, *, timeout_s: float, discard: bool = False) -> None:
        """Stop sampling before the next token; running sequences keep their KV cache.

        The server answers before the current token is done, but takes every later order after it.

        Args:
            timeout_s: longest wait for the answer.
            discard: end the running sequences with finish reason ``abort`` and forget all cached
                prefixes instead.
        """
        mode = "abort" if discard else "in_place"
        self._post("/pause_generation", {"mode": mode}, timeout_s)
        if discard:
            self._post(f"/flush_cache?timeout={timeout_s / 2}", {}, timeout_s)

    def resume(self, *, timeout_s: float) -> None:
        """Go on sampling; nothing happens when the server was not paused."""
        self._post("/continue_generation", {}, timeout_s)

    def abort_all(self, *, timeout_s: float) -> None:
        """End every running sequence with finish reason ``abort``."""
        self._post("/abort_request", {"abort_all": True}, timeout_s)

    def join_group(
        self,
        *,
        group_name: str,
        master: tuple[str, int],
        first_rank: int,
        world_size: int,
        backend: str,
        timeout_s: float,
    ) -> None:
        """Join a process group with ranks ``first_rank ... first_rank + tp - 1``; blocks."""
        payload = {
            "group_name": group_name,
            "master_address": master[0],
            "master_port": master[1],
            "rank_offset": first_rank,
            "world_size": world_size,
            "backend": backend,
        }
        self._post("/init_weights_update_group", payload, timeout_s)

    def leave_group(self, group_name: str, *, timeout_s: float) -> None:
        """Destroy the server's side of a process group."""
        self._post("/destroy_weights_update_group", {"group_name": group_name}, timeout_s)

    def label(self, version: int | None, *, timeout_s: float) -> None:
        """Set the policy version that new tokens are labelled with; None for a mixture of two."""
        name = INCOMPLETE_WEIGHTS if version is None else str(version)
        # The default of this field ends all running sequences.
        payload = {"new_version": name, "abort_all_requests": False}
        self._post("/update_weight_version", payload, timeout_s)

    def begin_update(self, *, timeout_s: float) -> None:
        """Open an update session; first close the one that a dead learner may have left open."""
        try:
            self._session_route("/begin_weight_update", timeout_s)
        except ServerRefusedError:
            self.end_update(timeout_s=timeout_s)
            self._session_route("/begin_weight_update", timeout_s)

    def end_update(self, *, timeout_s: float) -> None:
        """Close the update session."""
        self._session_route("/end_weight_update", timeout_s)

    def receive(
        self,
        tensors: Sequence[Mapping[str, Any]],
        *,
        is_flat: bool,
        group_name: str,
        timeout_s: float,
    ) -> None:
        """Take tensors that rank 0 broadcasts; returns when they are in use.

        Args:
            tensors: ``name``, ``dtype`` (as in ``torch.<dtype>``) and ``shape`` of each, in order.
            is_flat: they come end to end in one buffer of bytes, instead of one by one.
            group_name: as given to :meth:`join_group`.
            timeout_s: as everywhere.
        """
        payload = {
            "names": [tensor["name"] for tensor in tensors],
            "dtypes": [tensor["dtype"] for tensor in tensors],
            "shapes": [tensor["shape"] for tensor in tensors],
            "group_name": group_name,
            # A flush is refused while sequences run, after the weights have already changed.
            "flush_cache": False,
        }
        if is_flat:
            payload["load_format"] = "flattened_bucket"
        self._post("/update_weights_from_distributed", payload, timeout_s)

    def run_loader(self, loader: str, payload: str, *, timeout_s: float) -> None:
        """Have every rank run a custom weight loader that the server was started with.

        The server says that all went well whatever the loader did: it answers by other means.

        Args:
            loader: exactly as on the server's command line; any other name ends the server.
            payload: named tensors as SGLang's route takes them.
            timeout_s: as everywhere.
        """
        body = {
            "serialized_named_tensors": [payload] * self.info.tp,
            "load_format": loader,
            "flush_cache": False,
            # The loader knows the model that is served, and no draft of it.
            "selector": "target",
        }
        self._post("/update_weights_from_tensor", body, timeout_s)

    def load_folder(self, folder: str, *, timeout_s: float) -> None:
        """Load a Hugging Face folder that the server can read."""
        payload = {
            "model_path": folder,
            # Otherwise the format of the server's start counts: "dummy" with placeholder weights.
            "load_format": "auto",
            "flush_cache": False,
        }
        self._post("/update_weights_from_disk", payload, timeout_s)

    def _session_route(self, route: str, timeout_s: float) -> None:
        """Call a route that SGLang has, and requires, from 0.5.21 on."""
        try:
            self._post(route, {}, timeout_s)
        except _UnknownRouteError:
            return

    def _post(self, route: str, payload: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        return self._call("POST", route, payload, timeout_s)

    def _call(
        self, method: str, route: str, payload: dict[str, Any] | None, timeout_s: float
    ) -> dict[str, Any]:
        connection = http.client.HTTPConnection(*self.address, timeout=max(timeout_s, 1e-3))
        headers = {
            "Authorization": f"Bearer {self.info.api_key}",
            "Content-Type": "application/json",
        }
        body = None if payload is None else json.dumps(payload)
        try:
            connection.request(method, route, body=body, headers=headers)
            response = connection.getresponse()
            status, text = response.status, response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise WeightSyncError(
                f"server {self.info.name} did not answer {route} within {timeout_s:.1f} s: "
                f"{type(error).__name__}: {error}"
            ) from error
        finally:
            connection.close()
        return _read_answer(self.info.name, route, status, text)


def _read_answer(name: str, route: str, status: int, text: str) -> dict[str, Any]:
    """Return the parsed answer; some routes refuse with status 200 and ``success: false``."""
    refusal = f"server {name} refused {route}: HTTP {status}: {text[:_SHOWN_CHARS]}"
    if status == http.HTTPStatus.NOT_FOUND:
        raise _UnknownRouteError(refusal)
    if status != http.HTTPStatus.OK:
        raise ServerRefusedError(refusal)
    if not text.startswith("{"):  # /flush_cache answers with plain text
        return {}
    try:
        answer: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError as error:
        raise ServerRefusedError(refusal) from error
    if "success" in answer and not answer["success"]:
        raise ServerRefusedError(refusal)
    return answer
