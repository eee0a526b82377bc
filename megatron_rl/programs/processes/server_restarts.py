"""Server processes of a run: started together, started again when one dies."""

import logging
from collections.abc import Callable
from typing import Protocol

from megatron_rl.errors import ProgramError
from megatron_rl.registry import (
    registered_name,
    registered_servers,
    restart_request,
    unregister_server,
    withdraw_restart,
)
from megatron_rl.run_dir import RunDir

_LOG = logging.getLogger(__name__)


class ServerProgram(Protocol):
    """One started ``serve``, on this machine or on another."""

    name: str

    def poll(self) -> int | None:
        """Return its exit code, None while it runs."""
        ...

    def kill(self) -> None:
        """End whatever is left of it."""
        ...

    def failure(self) -> ProgramError:
        """Describe how it ended."""
        ...


class ServerRestarts:
    """Keeps servers alive.

    A server that dies before it was ever healthy is started once more, since a port or a node's
    memory may have been taken for a moment; then it would die again and is given up, as is one that
    dies when no restart is left. The run goes on as long as one server is not given up. Servers
    that the learner wants started again for one cause take one restart together.
    """

    def __init__(
        self,
        run_dir: RunDir,
        *,
        num_servers: int,
        max_restarts: int,
        start: Callable[[int], ServerProgram],
    ) -> None:
        self._run_dir = run_dir
        self._num_servers = num_servers
        self._restarts_left = max_restarts
        self._start = start
        self._healthy: set[int] = set()
        self._tried_again: set[int] = set()
        self._paid_causes: set[str] = set()
        self.servers: dict[int, ServerProgram] = {}

    def start_all(self) -> None:
        """Start every server."""
        for index in range(self._num_servers):
            self.servers[index] = self._start(index)

    def watch(self) -> None:
        """Start dead servers again; raise ProgramError when no server is left."""
        registered = registered_servers(self._run_dir)
        for index, server in list(self.servers.items()):
            if server.poll() is None:
                if registered_name(index) in registered:
                    self._healthy.add(index)
            else:
                self._replace(index, server)

    def _replace(self, index: int, server: ServerProgram) -> None:
        server.kill()
        # A server that was killed could not unregister itself.
        unregister_server(self._run_dir, registered_name(index))
        request = restart_request(self._run_dir, registered_name(index))
        withdraw_restart(self._run_dir, registered_name(index))
        is_paid = request is not None and request.cause in self._paid_causes
        is_hopeless = index not in self._healthy and index in self._tried_again
        if is_hopeless or (self._restarts_left == 0 and not is_paid):
            del self.servers[index]
            if not self.servers:
                raise server.failure()
            _LOG.error("going on without %s: %s", server.name, server.failure())
            return
        if not is_paid:
            self._restarts_left -= 1
        if request is not None:
            self._paid_causes.add(request.cause)
        if index not in self._healthy:
            self._tried_again.add(index)
        self._healthy.discard(index)
        _LOG.warning("%s died with code %s; starting it again", server.name, server.poll())
        self.servers[index] = self._start(index)
