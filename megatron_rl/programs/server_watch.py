"""The local run's servers: started together, started again when one dies."""

import logging
from collections.abc import Callable

from megatron_rl.config import RunConfig
from megatron_rl.programs.supervisor import Child
from megatron_rl.registry import registered_servers
from megatron_rl.run_dir import RunDir

_LOG = logging.getLogger(__name__)


class ServerWatch:
    """Keeps ``generators.num_servers`` servers alive.

    A server that dies before it was ever healthy would die again: that fails the run. One that
    dies later is started again, up to ``generators.max_restarts`` times in all.
    """

    def __init__(self, config: RunConfig, start: Callable[[int], Child]) -> None:
        self._run_dir = RunDir(config.run_dir)
        self._num_servers = config.generators.num_servers
        self._restarts_left = config.generators.max_restarts
        self._start = start
        self._servers: dict[int, Child] = {}
        self._healthy: set[int] = set()

    def start_all(self) -> None:
        """Start every server."""
        for index in range(self._num_servers):
            self._servers[index] = self._start(index)

    def watch(self) -> None:
        """Start dead servers again; raise ProgramError when that is hopeless."""
        by_pid = {info.pid for info in registered_servers(self._run_dir).values()}
        for index, child in self._servers.items():
            if child.pid in by_pid:
                self._healthy.add(index)
            if child.poll() is None:
                continue
            if index not in self._healthy or self._restarts_left == 0:
                raise child.failure()
            self._restarts_left -= 1
            self._healthy.discard(index)
            child.kill()
            _LOG.warning("%s died with code %s; starting it again", child.name, child.poll())
            self._servers[index] = self._start(index)
