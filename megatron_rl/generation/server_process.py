"""SGLang server as a child process: started, watched until healthy, stopped entirely."""

import collections
import contextlib
import http.client
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Self

from megatron_rl.errors import ServerStartError
from megatron_rl.process_lifetime import start_guard

_POLL_S = 0.1
_TAIL_LINES = 20
_REDACTED = b"<api key>"


class ServerProcess:
    """Server in its own process group, which ends with this object and with this process."""

    def __init__(
        self, argv: Sequence[str], environment: Mapping[str, str], *, log: Path, api_key: str
    ) -> None:
        """Start the server; its output goes to ``log``, with the key redacted.

        Args:
            argv: the command line.
            environment: the whole environment of the server.
            log: file to append to.
            api_key: the secret that sglang prints with its settings.
        """
        self._tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        log.parent.mkdir(parents=True, exist_ok=True)
        # The guard lives as long as this process and leads the group, so that the group's id
        # stays ours: workers that are still importing outlive their parent otherwise.
        self._guard = start_guard()
        self._process = subprocess.Popen(
            argv,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=self._guard.pid,
        )
        assert self._process.stdout is not None
        self._copier = threading.Thread(
            target=self._copy,
            args=(self._process.stdout, log, api_key.encode()),
            name="server-log",
            daemon=True,
        )
        self._copier.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(grace_s=0.0)

    @property
    def log_tail(self) -> str:
        """The last lines the server printed."""
        return "\n".join(self._tail)

    def poll(self) -> int | None:
        """Return the exit code, None while the server runs."""
        return self._process.poll()

    def wait_until_healthy(
        self,
        address: tuple[str, int],
        *,
        api_key: str,
        timeout_s: float,
        is_cancelled: Callable[[], bool],
    ) -> bool:
        """Return True once the server answers, False when cancelled first.

        Raises:
            ServerStartError: the server died or is not healthy in time; carries its last log lines.
        """
        deadline = time.monotonic() + timeout_s
        while not is_cancelled():
            if self.poll() is not None:
                self._copier.join(timeout=1.0)
                raise ServerStartError(
                    f"the generation server exited with code {self.poll()} while starting; its "
                    f"last lines:\n{self.log_tail}"
                )
            if is_healthy(address, api_key=api_key):
                return True
            if time.monotonic() > deadline:
                raise ServerStartError(
                    f"the generation server is not healthy after {timeout_s} s "
                    f"(generators.start_timeout_s); its last lines:\n{self.log_tail}"
                )
            time.sleep(_POLL_S)
        return False

    def stop(self, *, grace_s: float) -> None:
        """End every process of the server: ask, wait up to ``grace_s``, then kill."""
        if grace_s and self.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=grace_s)
        # Also when the first process is gone: its workers may still run.
        if self._guard.poll() is None:
            os.killpg(self._guard.pid, signal.SIGKILL)
        self._guard.wait()
        self._process.wait()
        self._copier.join(timeout=1.0)

    def _copy(self, output: BinaryIO, log: Path, secret: bytes) -> None:
        with output, log.open("ab") as file:
            for line in output:
                clean = line.replace(secret, _REDACTED)
                self._tail.append(clean.decode(errors="replace").rstrip())
                file.write(clean)
                file.flush()


def is_healthy(address: tuple[str, int], *, api_key: str) -> bool:
    """Return whether the server is ready and accepts the key."""
    headers = {"Authorization": f"Bearer {api_key}"}
    connection = http.client.HTTPConnection(*address, timeout=5.0)
    try:
        for route in ("/health", "/model_info"):
            connection.request("GET", route, headers=headers)
            response = connection.getresponse()
            body = response.read()
            if response.status != http.client.OK:
                return False
        return "model_path" in json.loads(body)
    except (OSError, http.client.HTTPException, json.JSONDecodeError):  # not yet
        return False
    finally:
        connection.close()
