"""Client of the fork server: load verifiers once, fork workers, learn how each has ended."""

import asyncio
import contextlib
import functools
import itertools
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from megatron_rl.judge import fork_server
from megatron_rl.judge.worker_handle import AttemptFailed, JudgeProcess

_START_TIMEOUT_S = 120.0
_EXIT_TIMEOUT_S = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Worker:
    pid: int
    ended: "asyncio.Future[int]"
    """Gets the worker's exit code, negative for a signal."""


class ForkClient:
    """A fork server that this process has started, and the exit codes of its workers."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket) -> None:
        """Take over a fork server that has just been started."""
        self._process = process
        self._control = control
        self._numbers = itertools.count()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._started: dict[int, asyncio.Future[_Worker]] = {}
        self._ended: dict[int, asyncio.Future[int]] = {}
        self.has_ended = False
        """Whether the fork server has ended."""
        asyncio.get_running_loop().add_reader(control, self._read)

    @classmethod
    async def start(cls, verifier: str, settings: Mapping[str, Any], *, memory_mb: int) -> Self:
        """Start a fork server and wait until the verifier is loaded; AttemptFailed if it is not.

        Args:
            verifier: ``module:function``; called with the settings, it returns the verifier.
            settings: plain JSON.
            memory_mb: largest memory of one worker, MiB.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", fork_server.__name__, str(os.getpid())),
                stdin=theirs.fileno(),
                # The fork server can import what we can; "" is the folder we run in.
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
                },
                # Ctrl-C in the terminal must not reach the fork server.
                start_new_session=True,
            )
        client = cls(process, ours)
        setup = {"verifier": verifier, "settings": dict(settings), "memory_mb": memory_mb}
        try:
            client._send(setup)
            async with asyncio.timeout(_START_TIMEOUT_S):
                await client._ready
        except TimeoutError:
            await client.close()
            raise AttemptFailed(f"verifiers took more than {_START_TIMEOUT_S} s to load") from None
        except AttemptFailed:
            raise await client._load_failure() from None
        except BaseException:
            await client.close()
            raise
        return client

    async def fork(self) -> JudgeProcess:
        """Return a new worker; raise AttemptFailed if the fork server is gone."""
        ours, theirs = socket.socketpair()
        number = next(self._numbers)
        self._started[number] = started = asyncio.get_running_loop().create_future()
        try:
            with theirs:
                self._send({"start": number}, theirs.fileno())
            worker = await started
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            # If the worker is forked later, it finds its socket closed, and ends.
            ours.close()
            raise
        kill = functools.partial(self._kill, worker.pid)
        return JudgeProcess(worker.pid, worker.ended, reader, writer, kill=kill)

    def _kill(self, pid: int) -> None:
        """End the worker and its children, unless the worker has ended: the fork server knows."""
        with contextlib.suppress(AttemptFailed):
            self._send({"kill": pid})

    async def close(self) -> None:
        """End the fork server and all workers, and wait until they are gone."""
        pending = [ended for ended in self._ended.values() if not ended.done()]
        for pid in [pid for pid, ended in self._ended.items() if not ended.done()]:
            self._kill(pid)
        if pending and not self.has_ended:
            await asyncio.wait(pending, timeout=_EXIT_TIMEOUT_S)
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()
        self._note_end()

    def _send(self, message: Mapping[str, Any], *descriptors: int) -> None:
        payload = json.dumps(message).encode()
        assert len(payload) <= fork_server.MAX_MESSAGE_BYTES, "settings are short"
        try:
            socket.send_fds(self._control, [payload], descriptors)
        except (
            OSError
        ) as error:  # the server's end is closed, or the server is stopped and reads no more
            raise _server_lost(str(error)) from None

    def _read(self) -> None:
        try:
            payload = self._control.recv(fork_server.MAX_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            payload = b""
        if not payload:
            self._note_end()
            return
        message = json.loads(payload)
        if "ready" in message:
            self._ready.set_result(None)
        elif "started" in message:
            pid = message["pid"]
            self._ended[pid] = ended = asyncio.get_running_loop().create_future()
            started = self._started.pop(message["started"])
            if not started.done():
                started.set_result(_Worker(pid=pid, ended=ended))
        else:
            self._ended.pop(message["ended"]).set_result(message["code"])

    def _note_end(self) -> None:
        """Fail every call that waits: the kernel ends the workers together with the fork server."""
        if self.has_ended:
            return
        self.has_ended = True
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        waiting: list[asyncio.Future[Any]] = [self._ready, *self._started.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(_server_lost("it has ended"))
                future.exception()  # retrieved: no caller may be left to do so
        for ended in self._ended.values():
            ended.set_result(-signal.SIGKILL)
        self._started.clear()
        self._ended.clear()

    async def _load_failure(self) -> AttemptFailed:
        """Return how the fork server ended while it was loading."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_TIMEOUT_S):
                await self._process.wait()
        await self.close()
        code = self._process.returncode
        if code == -signal.SIGKILL:
            return _server_lost("it was killed by SIGKILL")
        return AttemptFailed(f"loading it ended with exit code {code}")


def _server_lost(how: str) -> AttemptFailed:
    return AttemptFailed(
        f"the process that loads verifiers is lost: {how}", is_infrastructure_failure=True
    )
